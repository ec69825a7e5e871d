//! The plain runner: mutates the corpus for some seconds and keeps the first input that fails.
//!
//! The input is in its file before the target sees it, so that it is there after a crash, too. An input that takes
//! longer than [`INPUT_TIMEOUT`] counts as a failure.

use crate::Target;
use crate::mutate::{Rng, mutate};
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const INPUT_TIMEOUT: Duration = Duration::from_secs(20);
const INPUT_LEN_MAX: usize = 64 << 10;
/// Mutations of mutations reach what one step does not; more than these are not kept.
const POOL_MAX: usize = 256;

pub struct Options {
    pub seconds: u64,
    pub seed: u64,
    /// Where a failing input is kept.
    pub artifacts: PathBuf,
    /// Inputs that failed once, a folder per target.
    pub corpus: PathBuf,
}

#[derive(Debug)]
pub enum Outcome {
    Passed { inputs: u64 },
    Failed { input: PathBuf },
}

pub fn run(target: &Target, options: &Options) -> io::Result<Outcome> {
    fs::create_dir_all(&options.artifacts)?;
    let path = options.artifacts.join(format!("{}-{}.bin", target.name, options.seed));
    let mut kept = File::create(&path)?;
    let clock = watch();
    let mut try_one = |input: &[u8]| -> io::Result<bool> {
        kept.set_len(0)?;
        kept.rewind()?;
        kept.write_all(input)?;
        clock.begin();
        let ok = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok();
        clock.end();
        Ok(ok)
    };
    let mut pool = corpus(&options.corpus.join(target.name))?;
    pool.extend((target.seeds)());
    pool.push(Vec::new());
    let mut inputs = 0;
    for input in &pool {
        inputs += 1;
        if !try_one(input)? {
            return Ok(Outcome::Failed { input: path });
        }
    }
    let mut rng = Rng::new(options.seed);
    let fixed = pool.len();
    let end = Instant::now() + Duration::from_secs(options.seconds);
    while Instant::now() < end {
        let (one, other) = (rng.below(pool.len()), rng.below(pool.len()));
        let input = mutate(&pool[one], &pool[other], INPUT_LEN_MAX, &mut rng);
        inputs += 1;
        if !try_one(&input)? {
            return Ok(Outcome::Failed { input: path });
        }
        if pool.len() < fixed + POOL_MAX {
            pool.push(input);
        } else if rng.below(8) == 0 {
            let at = fixed + rng.below(POOL_MAX);
            pool[at] = input;
        }
    }
    fs::remove_file(&path)?;
    Ok(Outcome::Passed { inputs })
}

fn corpus(dir: &Path) -> io::Result<Vec<Vec<u8>>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut paths = entries.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(fs::read).collect()
}

/// When the current input began, in milliseconds; 0 between inputs.
struct Clock {
    origin: Instant,
    began: Arc<AtomicU64>,
}

impl Clock {
    fn begin(&self) {
        let now_ms = self.origin.elapsed().as_millis() as u64;
        self.began.store(now_ms.max(1), Ordering::Relaxed);
    }

    fn end(&self) {
        self.began.store(0, Ordering::Relaxed);
    }
}

/// A target that does not return can only be ended from outside: the process aborts, and the input stays.
fn watch() -> Clock {
    let clock = Clock { origin: Instant::now(), began: Arc::default() };
    let (origin, began) = (clock.origin, Arc::clone(&clock.began));
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let since = began.load(Ordering::Relaxed);
            let now_ms = origin.elapsed().as_millis() as u64;
            if since > 0 && now_ms > since + INPUT_TIMEOUT.as_millis() as u64 {
                eprintln!("no end after {} s", INPUT_TIMEOUT.as_secs());
                std::process::abort();
            }
        }
    });
    clock
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(name: &str) -> Options {
        let dir = std::env::temp_dir().join(format!("rejoin-fuzz-{name}-{}", std::process::id()));
        Options { seconds: 30, seed: 3, artifacts: dir.clone(), corpus: dir }
    }

    #[test]
    fn a_broken_promise_is_found_and_its_input_kept() {
        let run_bad = |data: &[u8]| assert!(!data.starts_with(b"key") || data.len() != 4, "found");
        let target = Target { name: "bad", run: run_bad, seeds: || vec![b"key".to_vec()] };
        let options = options("bad");
        let Ok(Outcome::Failed { input }) = run(&target, &options) else { panic!("not found") };
        let kept = fs::read(input).expect("the input is kept");
        assert!(kept.starts_with(b"key") && kept.len() == 4);
        fs::remove_dir_all(options.artifacts).expect("the folder goes");
    }

    #[test]
    fn old_failures_are_run_first() {
        let options = Options { seconds: 0, ..options("old") };
        let dir = options.corpus.join("old");
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join("1.bin"), b"once failed").expect("a file");
        let target = Target { name: "old", run: |data| assert_ne!(data, b"once failed"), seeds: Vec::new };
        assert!(matches!(run(&target, &options), Ok(Outcome::Failed { .. })));
        fs::remove_dir_all(options.artifacts).expect("the folder goes");
    }
}
