//! Carries out what the machine wants: connections, frames, time. One thread with a Tokio of its own, so that it runs
//! beside any program.

use crate::client::Report;
use crate::connection::{Connection, Heard, NoConnection};
use crate::dial::Dialer;
use crate::download::{self, Transfer};
use crate::error::Error;
use crate::options::{Options, Token};
use crate::storage::Job;
use rejoin_sync::client::{Client, Config, Effect, Event, Reply, Request};
use rejoin_sync::frame::Frame;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// How often the file with the token is read again.
const TOKEN: Duration = Duration::from_secs(2);
const SLEEP_MAX: Duration = Duration::from_secs(60);

pub enum Command {
    Token(String),
    Stop,
}

/// What happened.
enum Happened {
    Command(Option<Command>),
    Event(Option<Event>),
    Heard(Option<Heard>),
    Dialed(Result<Connection, NoConnection>),
    /// A snapshot is here, or not.
    Fetched(Result<PathBuf, Error>),
    Slept,
    LookAtToken,
}

pub struct Driver {
    machine: Client,
    dialer: Dialer,
    token: Token,
    /// Of the last look.
    read: Option<String>,
    clock: fn() -> i64,
    path: PathBuf,
    jobs: Sender<Job>,
    report: watch::Sender<Report>,
    connection: Option<Connection>,
    dialing: Option<JoinHandle<Result<Connection, NoConnection>>>,
    fetching: Option<JoinHandle<Result<PathBuf, Error>>>,
    sent: u64,
    received: u64,
}

impl Driver {
    pub fn new(
        dialer: Dialer,
        options: &mut Options,
        path: PathBuf,
        jobs: Sender<Job>,
        report: watch::Sender<Report>,
    ) -> Result<Driver, Error> {
        let (token, agent) = (std::mem::take(&mut options.token), std::mem::take(&mut options.agent));
        let (read, clock) = (token.read()?, options.now_ms);
        let seed = getrandom::u64().unwrap_or_else(|_| clock().unsigned_abs());
        let config = Config { token: read.clone(), agent, seed, ..Config::default() };
        Ok(Driver {
            machine: Client::new(config),
            dialer,
            token,
            read,
            clock,
            path,
            jobs,
            report,
            connection: None,
            dialing: None,
            fetching: None,
            sent: 0,
            received: 0,
        })
    }

    /// Runs until it is stopped, or nobody is left who could.
    pub async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut events: mpsc::UnboundedReceiver<Event>,
    ) {
        self.handle(Event::Start);
        let mut token = tokio::time::interval(TOKEN);
        token.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wait = self.wait();
            let happened = tokio::select! {
                command = commands.recv() => Happened::Command(command),
                event = events.recv() => Happened::Event(event),
                heard = hear(&mut self.connection) => Happened::Heard(heard),
                dialed = finish(&mut self.dialing) => Happened::Dialed(dialed.unwrap_or_else(|e| {
                    Err(NoConnection::Unreachable(e.to_string()))
                })),
                fetched = finish(&mut self.fetching) => Happened::Fetched(fetched.unwrap_or(Err(Error::Stopped))),
                () = tokio::time::sleep(wait) => Happened::Slept,
                _ = token.tick() => Happened::LookAtToken,
            };
            match happened {
                Happened::Command(None | Some(Command::Stop)) => break,
                Happened::Command(Some(Command::Token(token))) => self.handle(Event::Token(token)),
                Happened::Event(None) => break,
                Happened::Event(Some(event)) => self.handle(event),
                Happened::Heard(heard) => self.heard(heard),
                Happened::Dialed(dialed) => self.dialed(dialed),
                Happened::Fetched(Ok(snapshot)) => drop(self.jobs.send(Job::StartOver(snapshot))),
                Happened::Fetched(Err(e)) => self.handle(Event::Reply(not_fetched(&e))),
                Happened::Slept => self.handle(Event::Tick),
                Happened::LookAtToken => self.look_at_token(),
            }
        }
        self.handle(Event::Stop);
        // What was sent is still written.
        tokio::task::yield_now().await;
    }

    fn now_ms(&self) -> u64 {
        u64::try_from((self.clock)()).unwrap_or(0)
    }

    /// Until the machine wants to be woken.
    fn wait(&self) -> Duration {
        let wait = self.machine.wake_at().map(|at| Duration::from_millis(at.saturating_sub(self.now_ms())));
        // Clocks are set: it is looked again after a while.
        wait.map_or(SLEEP_MAX, |wait| wait.min(SLEEP_MAX))
    }

    fn handle(&mut self, event: Event) {
        for effect in self.machine.handle(event, self.now_ms()) {
            match effect {
                Effect::Connect => {
                    let dialer = self.dialer.clone();
                    self.connection = None;
                    self.dialing = Some(tokio::spawn(async move { Connection::open(&dialer).await }));
                }
                Effect::Send(frame) => {
                    self.sent += frame.len() as u64;
                    if let Some(connection) = &self.connection {
                        connection.send(frame);
                    }
                }
                Effect::Disconnect => {
                    self.connection = None;
                    self.dialing.take().iter().for_each(JoinHandle::abort);
                }
                Effect::Ask(Request::StartOver) => self.fetch(),
                Effect::Ask(request) => drop(self.jobs.send(Job::Ask(request))),
                Effect::State(_) => {}
            }
        }
        self.tell();
    }

    fn tell(&self) {
        let report = Report {
            state: self.machine.state(),
            pending: self.machine.pending(),
            settled: self.machine.is_settled(),
            sent: self.sent,
            received: self.received,
        };
        self.report.send_if_modified(|old| {
            let changed = *old != report;
            *old = report;
            changed
        });
    }

    fn heard(&mut self, heard: Option<Heard>) {
        match heard {
            Some(Heard::Frame(frame)) => {
                self.received += frame.len() as u64;
                self.handle(Event::Frame(frame));
            }
            Some(Heard::Closed(why)) => self.closed(why),
            None => self.closed("the connection was lost".into()),
        }
    }

    fn closed(&mut self, why: String) {
        self.connection = None;
        self.handle(Event::Closed { why });
    }

    fn dialed(&mut self, dialed: Result<Connection, NoConnection>) {
        match dialed {
            Ok(connection) => {
                self.connection = Some(connection);
                self.handle(Event::Connected);
            }
            Err(NoConnection::Unreachable(why)) => self.closed(why),
            // As if the server had said so in a frame.
            Err(NoConnection::Refused(fault)) => {
                let message = fault.message.clone();
                self.handle(Event::Connected);
                match Frame::Fault(fault).encode() {
                    Ok(frame) => self.handle(Event::Frame(frame)),
                    Err(_) => self.closed(message),
                }
            }
        }
    }

    fn look_at_token(&mut self) {
        // While the file is being written it may be gone or empty.
        if let (Token::File(_), Ok(Some(token))) = (&self.token, self.token.read())
            && !token.is_empty()
            && self.read.as_ref() != Some(&token)
        {
            self.read = Some(token.clone());
            self.handle(Event::Token(token));
        }
    }

    /// Downloads a snapshot beside the database.
    fn fetch(&mut self) {
        let (dialer, token) = (self.dialer.clone(), self.machine.token());
        let target = download::beside(&self.path, ".snapshot");
        self.fetching = Some(tokio::spawn(async move {
            download::fetch(&dialer, token.as_deref(), &target, &mut |_: Transfer| {}).await?;
            download::forget(&target);
            Ok(target)
        }));
    }
}

fn not_fetched(e: &Error) -> Reply {
    match e {
        Error::Unreachable { .. } | Error::Damaged { .. } | Error::File { .. } => {
            Reply::Failed(e.to_string())
        }
        _ => Reply::Impossible(e.to_string()),
    }
}

async fn hear(connection: &mut Option<Connection>) -> Option<Heard> {
    match connection {
        Some(connection) => connection.heard.recv().await,
        None => std::future::pending().await,
    }
}

async fn finish<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match task {
        Some(running) => {
            let done = running.await;
            *task = None;
            done
        }
        None => std::future::pending().await,
    }
}
