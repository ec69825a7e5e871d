//! The real server, as a child.

use crate::usage::{cpu_of, memory_of};
use crate::{Result, lab::Lab};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// Open as long as it runs.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Serves a directory of the laboratory on a free port.
    pub fn start(lab: &Lab, name: &str) -> Result<Server> {
        let data = lab.path(name);
        std::fs::create_dir_all(&data)?;
        let mut child = Command::new(&lab.rejoin)
            .args(["serve", "--insecure-no-auth", "--listen", "127.0.0.1:0", "--log", "warn", "--data"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", lab.rejoin.display()))?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        match line.trim().strip_prefix("listening on ").and_then(|a| a.parse().ok()) {
            Some(address) => Ok(Server { child, address, _stdout: stdout }),
            None => {
                let _ = child.kill();
                Err(format!("the server says {line:?}").into())
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self, room: &str) -> String {
        format!("ws://{}/{room}", self.address)
    }

    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid())
    }

    pub fn memory(&self, name: &str) -> Result<f64> {
        memory_of(self.pid(), name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = signal(&self.child, Signal::TERM);
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks a child to end.
pub fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("no process id")?;
    Ok(kill_process(pid, signal)?)
}
