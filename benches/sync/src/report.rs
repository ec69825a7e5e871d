//! The table of a run, a line as soon as it is known.

/// What holds for a figure.
#[derive(Clone, Copy)]
pub enum Limit {
    /// Nothing: it is told.
    None,
    /// At most this; means nothing for the small sizes of `--quick`.
    Most(f64),
    /// At most this, whatever the machine does.
    Always(f64),
}

pub struct Report {
    quick: bool,
    bench: &'static str,
    missed: bool,
}

impl Report {
    pub fn new(quick: bool) -> Report {
        println!("{:<9} {:<66} {:>10} {:<5} {:>7}", "benchmark", "what", "measured", "", "limit");
        Report { quick, bench: "", missed: false }
    }

    pub fn begin(&mut self, bench: &'static str) {
        self.bench = bench;
    }

    pub fn line(&mut self, what: &str, value: f64, unit: &str, limit: Limit) {
        let most = match limit {
            Limit::Always(most) => Some(most),
            Limit::Most(most) if !self.quick => Some(most),
            _ => None,
        };
        // What is not a number is no figure.
        let word = match most {
            Some(most) if value <= most => "ok",
            Some(_) => "MISSED",
            None => "",
        };
        self.missed |= word == "MISSED";
        let most = most.map_or_else(String::new, |m| format!("{m}"));
        println!("{:<9} {what:<66} {:>10} {unit:<5} {most:>7} {word}", self.bench, shown(value));
    }

    /// For people: a figure without a limit.
    pub fn note(&mut self, what: &str, value: f64, unit: &str) {
        self.line(what, value, unit, Limit::None);
    }

    pub fn all_ok(&self) -> bool {
        !self.missed
    }
}

fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The value that so many per cent do not exceed; sorts them.
pub fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * percent / 100.0).ceil() as usize;
    values.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

pub fn median(values: &mut [f64]) -> f64 {
    percentile(values, 50.0)
}
