//! What carries out a session's requests, whatever its frames travel by.

use crate::app::{App, Share, now_ms};
use crate::auth::{Denied, Grant};
use crate::limits::{ConnectionRate, Debt, Place};
use crate::names::RoomName;
use crate::room::{Client, Head};
use crate::rooms::Lease;
use rejoin::VersionVector;
use rejoin_sync::server::{Config as SessionConfig, Effect, Event, Reply, Request, Session};
use rejoin_wire::frame::{Code, Fault, Hello, Welcome};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub type Asked = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A reply, and what an admission brought with it.
pub struct Answer {
    pub reply: Reply,
    admission: Option<Admission>,
    grant: Option<Grant>,
}

struct Admission {
    room: Arc<Lease>,
    head: watch::Receiver<Head>,
    _client: Client,
    _place: Option<Place>,
}

/// Schema and horizon as a client was told.
pub struct Told {
    schema: Arc<str>,
    horizon: Arc<VersionVector>,
}

impl Told {
    pub fn by(welcome: &Welcome) -> Told {
        let schema = String::from_utf8_lossy(&welcome.schema.0);
        Told { schema: schema.into(), horizon: Arc::new(welcome.horizon.0.clone()) }
    }

    /// What the session is to be told of the room.
    pub fn news(&mut self, head: &Head) -> Vec<Event> {
        let mut news = vec![Event::Advanced { version: head.version, vector_hash: head.vector_hash }];
        if self.schema != head.schema {
            news.push(Event::SchemaChanged(head.schema.as_bytes().to_vec()));
        }
        if self.horizon != head.horizon {
            news.push(Event::HorizonMoved(VersionVector::clone(&head.horizon)));
        }
        *self = Told { schema: head.schema.clone(), horizon: head.horizon.clone() };
        news
    }
}

/// One client's session.
pub struct Driver {
    app: Arc<App>,
    name: RoomName,
    session: Session,
    /// What an HTTP client sent as a header; else the first frame brings the token.
    bearer: Option<String>,
    /// The one that holds.
    token: Option<String>,
    grant: Option<Arc<Grant>>,
    admission: Option<Admission>,
    told: Option<Told>,
    share: Share,
    /// Bytes of frames that the client has not taken.
    pub unsent: u64,
    rate: ConnectionRate,
    debt: Debt,
    /// Whether it counts as a connection of its subject.
    stays: bool,
}

pub fn fault(code: Code, message: impl Into<String>) -> Fault {
    Fault { code, message: message.into(), retry_after_ms: None }
}

pub fn denied(denied: &Denied) -> Fault {
    let code = match denied {
        Denied::Unauthenticated(_) => Code::Unauthenticated,
        Denied::Forbidden(_) => Code::Forbidden,
    };
    fault(code, denied.message())
}

pub fn too_often(subject: &str, wait: Duration) -> Fault {
    let retry_after_ms = Some(u32::try_from(wait.as_millis()).unwrap_or(u32::MAX));
    Fault { code: Code::Limited, message: format!("subject \"{subject}\" asks too often"), retry_after_ms }
}

impl Driver {
    pub fn new(app: Arc<App>, name: RoomName, number: u64, bearer: Option<String>, stays: bool) -> Driver {
        let limits = &app.config.limits;
        let config = SessionConfig {
            session: number,
            cut_bytes_max: limits.cut_bytes,
            greeting_ms: u64::from(limits.handshake_s) * 1000,
            ..SessionConfig::default()
        };
        Driver {
            session: Session::new(config, now_ms()),
            share: app.budget.share(),
            unsent: 0,
            rate: ConnectionRate::new(limits),
            debt: Debt::default(),
            app,
            name,
            bearer,
            token: None,
            grant: None,
            admission: None,
            told: None,
            stays,
        }
    }

    /// Subject and site, for the log.
    pub fn who(&self) -> (&str, rejoin::SiteId) {
        (self.grant.as_ref().map_or("", |g| &g.subject), rejoin::SiteId(self.session.site()))
    }

    pub fn is_open(&self) -> bool {
        self.session.is_open()
    }

    /// The client has been let in, once.
    pub fn is_admitted(&self) -> bool {
        self.grant.is_some()
    }

    pub fn at_rest(&self) -> bool {
        self.session.at_rest()
    }

    pub fn wake_at(&self) -> Option<u64> {
        self.session.wake_at()
    }

    /// A frame has come that counts for the rates.
    pub fn owe(&mut self, bytes: usize) {
        self.debt = Debt::frame(bytes);
    }

    /// Waits until the last frame is within the rates; and until the room is somewhere else. Both may be dropped and
    /// called again.
    pub fn waits(&mut self) -> (impl Future<Output = ()>, impl Future<Output = ()>) {
        let (debt, subject, subjects, rate) =
            (&mut self.debt, self.grant.as_ref(), &self.app.subjects, &self.rate);
        let paid = async move {
            while !debt.is_paid() {
                let Some(wait) = subjects.pay(debt, subject.map(|g| &g.subject), rate) else { break };
                metrics::counter!(crate::metrics::THROTTLED).increment(1);
                tokio::time::sleep(wait).await;
            }
        };
        let admission = self.admission.as_mut();
        let moved = async move {
            let head = admission.map(|a| &mut a.head);
            let alive = match head {
                Some(head) => head.changed().await.is_ok(),
                None => false,
            };
            if !alive {
                std::future::pending::<()>().await;
            }
        };
        (paid, moved)
    }

    pub fn is_receiving(&self) -> bool {
        self.session.is_receiving()
    }

    pub fn handle(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = self.session.handle(event, now_ms());
        if !self.share.set(self.session.held_bytes() + self.unsent) {
            // The largest way to hold memory is not to finish: whoever comes now comes again later.
            let why = Fault {
                code: Code::Limited,
                message: "the server has no memory for more changesets at the moment".into(),
                retry_after_ms: Some(2000),
            };
            effects.extend(self.session.end(why));
        }
        effects
    }

    /// Keys have changed: whose token does not hold any more goes.
    pub fn check_again(&mut self) -> Vec<Effect> {
        if self.grant.is_none() {
            return Vec::new();
        }
        match self.app.live().authority.check(self.token.as_deref(), &self.name) {
            Ok(_) => Vec::new(),
            Err(why) => self.session.end(denied(&why)),
        }
    }

    /// Ends the session for a reason of the driver's.
    pub fn end(&mut self, why: Fault) -> Vec<Effect> {
        self.session.end(why)
    }

    /// The answer to a request has come.
    pub fn answered(&mut self, answer: Answer) -> Vec<Effect> {
        let Answer { reply, admission, grant } = answer;
        if let Some(grant) = grant {
            self.grant = Some(Arc::new(grant));
        }
        if admission.is_some() {
            self.admission = admission;
        }
        let admitted = match &reply {
            Reply::Admitted(welcome) => {
                self.told = Some(Told::by(welcome));
                true
            }
            _ => false,
        };
        let mut effects = self.handle(Event::Reply(reply));
        if admitted {
            effects.extend(self.advanced());
        }
        effects
    }

    /// Tells the session where the room is.
    pub fn advanced(&mut self) -> Vec<Effect> {
        let Some(admission) = &mut self.admission else { return Vec::new() };
        let head = admission.head.borrow_and_update().clone();
        let Some(told) = &mut self.told else { return Vec::new() };
        let news = told.news(&head);
        news.into_iter().flat_map(|event| self.handle(event)).collect()
    }

    /// Sets a request going.
    pub fn ask(&mut self, request: Request) -> Asked {
        match request {
            Request::Admit(hello) => return self.admit(hello),
            Request::Authenticate(token) => return self.renew(&token),
            _ => {}
        }
        let (Some(admission), Some(grant)) = (&self.admission, &self.grant) else {
            return ready(Reply::Failed("a request before admission".into()));
        };
        let (room, grant) = (admission.room.clone(), grant.clone());
        match room.shared.answer(&request) {
            Some(reply) => ready(reply),
            None => plain(room.ask(move |owner| owner.answer(request, &grant))),
        }
    }

    /// The token first, then the room: who may not enter learns nothing of it.
    fn admit(&mut self, hello: Box<Hello>) -> Asked {
        self.token = hello.token.clone().or_else(|| self.bearer.clone());
        let grant = match self.app.live().authority.check(self.token.as_deref(), &self.name) {
            Ok(grant) => grant,
            Err(why) => return ready(Reply::Denied(denied(&why))),
        };
        if !self.stays
            && let Err(wait) = self.app.subjects.request(&grant.subject)
        {
            return ready(Reply::Denied(too_often(&grant.subject, wait)));
        }
        let place = if self.stays { self.app.subjects.enter(&grant.subject) } else { None };
        if self.stays && place.is_none() {
            let why = Fault {
                code: Code::Limited,
                message: format!("subject \"{}\" has as many connections as it may", grant.subject),
                retry_after_ms: Some(10_000),
            };
            return ready(Reply::Denied(why));
        }
        let (app, name) = (self.app.clone(), self.name.clone());
        Box::pin(async move {
            let room = match app.rooms.get(&name, !grant.read_only).await {
                Ok(room) => Arc::new(room),
                Err(why) => return Answer { reply: Reply::Denied(why), admission: None, grant: None },
            };
            let (client, head) = (room.enter(), room.shared.head.subscribe());
            let for_room = grant.clone();
            let reply = room.ask(move |owner| owner.admit(&hello, &for_room)).await;
            let admission = Admission { room, head, _client: client, _place: place };
            Answer { reply, admission: Some(admission), grant: Some(grant) }
        })
    }

    /// A newer token: of the same subject, and the session goes on with what it allows.
    fn renew(&mut self, token: &str) -> Asked {
        let renewed = self.app.live().authority.check(Some(token), &self.name);
        let same = |g: &Grant| {
            let before = self.grant.as_deref();
            before.is_some_and(|b| b.subject == g.subject && b.read_only == g.read_only && b.relay == g.relay)
        };
        let (reply, grant) = match renewed {
            Ok(grant) if same(&grant) => {
                self.token = Some(token.to_owned());
                (Reply::Authenticated(grant.expires_ms), Some(grant))
            }
            Ok(_) => {
                let message = "the new token is another subject's, or allows something else; connect anew";
                (Reply::Denied(fault(Code::Forbidden, message)), None)
            }
            Err(why) => (Reply::Denied(denied(&why)), None),
        };
        Box::pin(std::future::ready(Answer { reply, admission: None, grant }))
    }
}

fn ready(reply: Reply) -> Asked {
    plain(std::future::ready(reply))
}

fn plain(reply: impl Future<Output = Reply> + Send + 'static) -> Asked {
    Box::pin(async move { Answer { reply: reply.await, admission: None, grant: None } })
}
