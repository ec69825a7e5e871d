//! Replicated SQLite: ordinary tables that every device writes at once and that become equal when devices meet.
