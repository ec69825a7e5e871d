//! What the tampered till tries on the wire: frames by hand, over a real socket.

use crate::place::{self, Place, ROOM};
use crate::{Result, conflicts, shops};
use comfy_table::{Table, presets};
use futures_util::{SinkExt, StreamExt};
use rejoin::{CutRequest, Replica};
use rejoin_wire::frame::{
    Bytes, Cut, Data, Frame, Hello, PROTOCOL, PROTOCOL_OLDEST, Welcome, WireVector, cut_hash,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// Longer than a server on a busy machine takes to answer.
const PATIENCE: Duration = Duration::from_secs(30);

struct Intruder<'a> {
    place: &'a Place,
    table: Table,
}

/// Tries everything; the table of what the server said.
pub fn try_all(place: &Place, mutations: usize) -> Result<String> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["tried", "code", "the server says"]);
    let mut intruder = Intruder { place, table };
    intruder.tokens()?;
    intruder.names()?;
    intruder.promises()?;
    intruder.mutations(mutations)?;
    Ok(intruder.table.trim_fmt())
}

impl Intruder<'_> {
    fn row(&mut self, tried: &str, answer: Answer) {
        self.table.add_row([tried, &answer.code, &conflicts::shorten(&answer.sentence, 90)]);
    }

    fn till(&self) -> Result<Replica> {
        Ok(Replica::open(self.place.file("till"))?)
    }

    fn good_token(&self) -> String {
        self.place.token("till", ROOM, json!({"role": "till"}))
    }

    /// Greets, says what `more` makes of the welcome, and hears the answer.
    fn say(
        &self,
        replica: &Replica,
        token: Option<String>,
        more: impl FnOnce(&Welcome) -> Result<Vec<Vec<u8>>>,
    ) -> Result<Answer> {
        let hello = Frame::Hello(hello(replica, token)?).encode()?;
        self.place.runtime().block_on(async {
            let mut line = Line::connect(self.place).await?;
            line.send(hello).await;
            let welcome = match line.answer().await? {
                Heard::Welcome(welcome) => welcome,
                Heard::Answer(answer) => return Ok(answer),
            };
            for frame in more(&welcome)? {
                line.send(frame).await;
            }
            match line.answer().await? {
                Heard::Answer(answer) => Ok(answer),
                Heard::Welcome(_) => Err("the server greets twice".into()),
            }
        })
    }

    fn tokens(&mut self) -> Result<()> {
        let till = self.till()?;
        let claims = json!({"sub": "boss", "room": ROOM, "exp": 9_999_999_999_u64, "role": "manager"});
        let unsigned = format!("{}.{}.", place::part(&json!({"alg": "none"})), place::part(&claims));
        let other_room = self.place.token("till", "payroll", json!({}));
        let old = self.place.token("till", ROOM, json!({"exp": 1_000_000_000}));
        for (tried, token) in [
            ("no token", None),
            ("a token that says its algorithm is `none`", Some(unsigned)),
            ("the token of another room", Some(other_room)),
            ("a token of 2001", Some(old)),
        ] {
            let answer = self.say(&till, token, |_| Ok(Vec::new()))?;
            self.row(tried, answer);
        }
        Ok(())
    }

    /// To be the north, or to speak for it.
    fn names(&mut self) -> Result<()> {
        let stolen = self.place.file("stolen");
        // Nobody has it open: the file is all of it.
        std::fs::copy(self.place.file("north"), &stolen)?;
        let stolen = Replica::open(stolen)?;
        let answer = self.say(&stolen, Some(self.good_token()), |_| Ok(Vec::new()))?;
        self.row("the north's database under the till's token", answer);

        shops::price(stolen.connection(), 1, 1)?;
        let till = self.till()?;
        let answer = self.say(&till, Some(self.good_token()), |welcome| {
            let cut = stolen.cut_for(&CutRequest::new(&welcome.vector.0))?.ok_or("nothing to send")?;
            cut_frames(&cut.bytes)
        })?;
        self.row("a transaction in the north's name", answer);
        Ok(())
    }

    fn promises(&mut self) -> Result<()> {
        let till = self.till()?;
        for (tried, bytes) in [("a gigabyte to come", 1 << 30), ("all the memory of the world", u64::MAX)] {
            let cut = head(bytes, [0; 16]);
            let answer = self.say(&till, Some(self.good_token()), |_| Ok(vec![Frame::Cut(cut).encode()?]))?;
            self.row(tried, answer);
        }
        Ok(())
    }

    /// Frames of an honest session with one byte changed, and cut short.
    fn mutations(&mut self, count: usize) -> Result<()> {
        let till = self.till()?;
        let bargain = Replica::open(self.place.file("stolen"))?;
        let mut answers: BTreeMap<String, usize> = BTreeMap::new();
        let mut dice = crate::catalogue::Dice::new(4);
        for n in 0..count {
            let answer = self.say(&till, Some(self.good_token()), |welcome| {
                let cut = bargain.cut_for(&CutRequest::new(&welcome.vector.0))?.ok_or("nothing to send")?;
                let mut frames = cut_frames(&cut.bytes)?;
                let which = dice.roll(frames.len());
                if let Some(frame) = frames.get_mut(which) {
                    let at = dice.roll(frame.len());
                    match n % 3 {
                        0 => frame.truncate(at),
                        _ => frame[at] ^= 1 << dice.roll(8),
                    }
                }
                // Who still waits for bytes answers this.
                frames.push(Frame::Ping(0, None).encode()?);
                Ok(frames)
            })?;
            *answers.entry(answer.code).or_default() += 1;
        }
        let code: Vec<String> = answers.iter().map(|(code, n)| format!("{n} {code}")).collect();
        let answer = Answer { code: code.join(", "), sentence: String::new() };
        self.row(&format!("{count} sessions with a damaged frame"), answer);
        Ok(())
    }
}

struct Answer {
    code: String,
    sentence: String,
}

enum Heard {
    Welcome(Box<Welcome>),
    Answer(Answer),
}

struct Line(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Line {
    async fn connect(place: &Place) -> Result<Line> {
        let mut request = place.url().into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", "rejoin.v1".parse()?);
        Ok(Line(connect_async_with_config(request, None, true).await?.0))
    }

    /// The server may have hung up; what it said before that is still to be read.
    async fn send(&mut self, bytes: Vec<u8>) {
        let _ = self.0.send(Message::Binary(bytes.into())).await;
    }

    /// What the server has to say, but for credit, heartbeats and changes. A transaction that it took is an error here.
    async fn answer(&mut self) -> Result<Heard> {
        let answer = |code, sentence| Ok(Heard::Answer(Answer { code: format!("{code:?}"), sentence }));
        loop {
            let next = timeout(PATIENCE, self.0.next()).await.map_err(|_| "the server says nothing")?;
            let bytes = match next {
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    let answer = Answer { code: "hung up".into(), sentence: String::new() };
                    return Ok(Heard::Answer(answer));
                }
                Some(Ok(_)) => continue,
            };
            match Frame::decode(&bytes, usize::MAX)? {
                Frame::Welcome(welcome) => return Ok(Heard::Welcome(welcome)),
                Frame::Fault(fault) => return answer(fault.code, fault.message),
                Frame::Refused(refused) => return answer(refused.code, refused.message),
                Frame::Reject(reject) => {
                    let first = reject.rejections.into_iter().next().ok_or("an empty rejection")?;
                    return answer(first.code, first.message);
                }
                Frame::Pong(..) => {
                    let answer = Answer { code: "waits for the rest".into(), sentence: String::new() };
                    return Ok(Heard::Answer(answer));
                }
                Frame::Ack(_) => return Err("the server took what it must not take".into()),
                _ => {}
            }
        }
    }
}

fn head(bytes: u64, hash: [u8; 16]) -> Cut {
    Cut { cut: 1, bytes, hash, offset: 0, transactions: 1, more: false, since: 0, rows: false }
}

fn cut_frames(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut frames = vec![Frame::Cut(head(bytes.len() as u64, cut_hash(bytes))).encode()?];
    for part in bytes.chunks(60_000) {
        frames.push(Frame::Data(Data { cut: 1, bytes: Bytes(part.to_vec()) }).encode()?);
    }
    Ok(frames)
}

fn hello(replica: &Replica, token: Option<String>) -> Result<Hello> {
    let head = replica.own_head()?;
    Ok(Hello {
        oldest: PROTOCOL_OLDEST,
        newest: PROTOCOL,
        token,
        site: head.site.0,
        lineage: replica.lineage()?,
        schema: Bytes(replica.schema()?.into_bytes()),
        vector: replica.vector()?.into(),
        head: (head.version > 0).then_some((head.version, head.chain)),
        horizon: WireVector::default(),
        credit: 1 << 24,
        resume: None,
        agent: "an intruder".into(),
    })
}
