//! A reader for the few options that the subcommands take.

use std::str::FromStr;

/// The words after the subcommand; every method takes out what it recognises.
pub struct Args {
    words: Vec<String>,
}

impl Args {
    /// Returns `None` after printing `help` when the user asked for it.
    pub fn new(words: Vec<String>, help: &str) -> Option<Self> {
        if words.iter().take_while(|w| *w != "--").any(|w| w == "--help" || w == "-h") {
            print!("{help}");
            return None;
        }
        Some(Self { words })
    }

    pub fn flag(&mut self, name: &str) -> bool {
        let before = self.words.len();
        self.words.retain(|w| w != name);
        self.words.len() != before
    }

    /// The value of `--name VALUE` or `--name=VALUE`.
    pub fn value(&mut self, name: &str) -> Result<Option<String>, String> {
        let prefix = format!("{name}=");
        let Some(at) = self.words.iter().position(|w| w == name || w.starts_with(&prefix)) else {
            return Ok(None);
        };
        let word = self.words.remove(at);
        if let Some(value) = word.strip_prefix(&prefix) {
            return Ok(Some(value.to_owned()));
        }
        if at < self.words.len() {
            return Ok(Some(self.words.remove(at)));
        }
        Err(format!("{name} needs a value"))
    }

    pub fn number<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(text) = self.value(name)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!("{name} needs a number, not `{text}`")),
        }
    }

    /// At most one free word.
    pub fn last(self) -> Result<Option<String>, String> {
        let mut words = self.words.into_iter();
        let first = words.next();
        if let Some(option) = first.as_ref().filter(|w| w.starts_with('-')) {
            return Err(format!("unknown option `{option}`; see --help"));
        }
        match words.next() {
            Some(extra) => Err(format!("unexpected `{extra}`; see --help")),
            None => Ok(first),
        }
    }

    /// Everything that is left, for a program that reads its own options.
    pub fn rest(self) -> Vec<String> {
        self.words
    }
}

#[cfg(test)]
mod tests {
    use super::Args;

    fn args(text: &str) -> Args {
        Args::new(text.split_whitespace().map(str::to_owned).collect(), "").expect("no help")
    }

    #[test]
    fn values_in_both_spellings() {
        let mut a = args("--seconds 5 --seed=7 key_codec --long");
        assert_eq!(a.number::<u32>("--seconds"), Ok(Some(5)));
        assert_eq!(a.number::<u64>("--seed"), Ok(Some(7)));
        assert!(a.flag("--long"));
        assert_eq!(a.last(), Ok(Some("key_codec".to_owned())));
    }

    #[test]
    fn wrong_words_are_named() {
        assert!(args("--seconds").number::<u32>("--seconds").is_err());
        assert!(args("--seconds x").number::<u32>("--seconds").is_err());
        assert!(args("--nope").last().is_err());
        assert!(args("a b").last().is_err());
    }
}
