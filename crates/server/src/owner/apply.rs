//! A changeset of a client: checked, applied, or refused in the words of the protocol.

use super::{Owner, fault, malformed};
use crate::auth::Grant;
use crate::check::Check;
use crate::metrics::APPLY_SECONDS;
use rejoin::ambient::{Mistake, makes};
use rejoin::{Checked, Checker as _, Error};
use rejoin_sync::server::Reply;
use rejoin_wire::frame::{Bytes, Code, Rejection};
use std::time::Instant;

impl Owner {
    /// Checks and applies a changeset.
    pub(super) fn apply(&mut self, bytes: &[u8], grant: &Grant) -> Reply {
        if let Err(message) = self.has_bytes(grant, bytes.len() as u64) {
            return self.not_applied(Code::Limited, message);
        }
        let limits = &self.common.config.limits;
        let mut check = Check::new(&self.members, &self.policies, grant, limits);
        let unpacked = rejoin_wire::unpacked_bytes(bytes).min(check.bytes_max() as u64);
        let place = self.common.unpacking.wait_for(unpacked);
        let began = Instant::now();
        let checked = self.replica.apply_checked(bytes, &mut check);
        drop(place);
        let (claimed, places) = check.finish();
        metrics::histogram!(APPLY_SECONDS).record(began.elapsed().as_secs_f64());
        match checked {
            Ok(Checked::Applied(applied)) => {
                self.members.used(&grant.subject, bytes.len() as u64);
                metrics::counter!(crate::metrics::TRANSACTIONS).increment(applied.transactions);
                match self.members.claim(self.replica.connection(), &claimed, &grant.subject) {
                    Ok(()) => Reply::Applied,
                    Err(e) => self.broken(&e.into()),
                }
            }
            Ok(Checked::Rejected { rejections, .. }) => self.rejected(rejections, grant, &places),
            Ok(Checked::Ahead(missing)) => {
                let named = |m: &rejoin::Missing| match &m.column {
                    Some(column) => format!("column \"{column}\" of \"{}\"", m.table),
                    None => format!("table \"{}\"", m.table),
                };
                let all = missing.iter().take(5).map(named).collect::<Vec<_>>().join(", ");
                self.not_applied(Code::Ahead, format!("room \"{}\" lacks {all}", self.name))
            }
            Ok(_) => self.not_applied(Code::Internal, "an outcome that this server does not know".into()),
            Err(e) => self.refused(&e),
        }
    }

    /// Whether the subject may still bring so many bytes.
    pub(super) fn has_bytes(&self, grant: &Grant, bytes: u64) -> Result<(), String> {
        let (used, most) = (self.members.bytes_of(&grant.subject), self.common.config.limits.subject_bytes);
        if most > 0 && used.saturating_add(bytes) > most {
            return Err(format!("subject \"{}\" has used up its {most} bytes", grant.subject));
        }
        Ok(())
    }

    fn rejected(&self, all: Vec<rejoin::Rejection>, grant: &Grant, places: &[String]) -> Reply {
        let code_of = |r: &rejoin::Rejection| crate::check::code(&r.code);
        for r in &all {
            metrics::counter!(crate::metrics::REJECTED, "code" => format!("{:?}", code_of(r))).increment(1);
        }
        if let Some(r) = all.first() {
            let at = places.first().map_or("", String::as_str);
            tracing::warn!(room = %self.name, subject = %grant.subject, site = %r.site, version = r.version,
                transactions = all.len(), code = ?code_of(r), at, "refused: a changeset: {}", r.reason);
        }
        let rejection = |r: rejoin::Rejection| {
            let (table, pk) =
                r.row.as_ref().map(|row| (row.table.clone(), row.pk.clone())).unwrap_or_default();
            Rejection {
                site: r.site.0,
                version: r.version,
                code: code_of(&r),
                message: r.reason,
                table,
                pk: Bytes(pk),
            }
        };
        Reply::Rejected(all.into_iter().map(rejection).collect())
    }

    /// What the engine says of a changeset, in the words of the protocol.
    fn refused(&self, e: &Error) -> Reply {
        let code = match e {
            Error::Gap { .. } => Code::Gap,
            Error::Fork { .. } => Code::Fork,
            Error::OtherLineage { .. } => Code::OtherLineage,
            Error::BelowHorizon { .. } => Code::BelowHorizon,
            Error::TooLarge { .. } => Code::TooLarge,
            Error::TooMany { .. } => {
                let message = format!(
                    "{e}; the server's operator can raise `cut_rows`, or put a copy of the database into the room's place"
                );
                return self.not_applied(Code::TooLarge, message);
            }
            // The client's clock is measured when it connects: it does that again.
            Error::Clock { .. } => return Reply::Denied(fault(Code::Clock, e.to_string())),
            e if malformed(e) => Code::Malformed,
            Error::Sqlite(inner) if inner.code & 0xff == rusqlite::ffi::SQLITE_FULL && self.is_full() => {
                let message =
                    format!("room \"{}\" has its {} bytes", self.name, self.common.config.limits.room_bytes);
                return self.not_applied(Code::Limited, message);
            }
            _ => {
                tracing::error!(room = %self.name, "a changeset could not be applied: {e}");
                Code::Internal
            }
        };
        self.not_applied(code, e.to_string())
    }

    fn is_full(&self) -> bool {
        let pages = self.replica.connection().query_row("PRAGMA page_count", [], |r| r.get::<_, i64>(0));
        // A commit may need more than one page.
        pages.is_ok_and(|pages| pages + pages / 8 + 64 >= self.pages_max)
    }

    fn not_applied(&self, code: Code, message: String) -> Reply {
        if makes(Mistake::AcknowledgeRefused) {
            return Reply::Applied;
        }
        match self.replica.vector() {
            Ok(vector) => {
                if code != Code::Gap {
                    metrics::counter!(crate::metrics::REFUSED, "what" => "cut").increment(1);
                    tracing::warn!(room = %self.name, ?code, "refused: a changeset: {message}");
                }
                Reply::NotApplied { code, message, vector }
            }
            Err(e) => self.broken(&e),
        }
    }
}
