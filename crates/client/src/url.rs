//! Addresses of rooms.

use crate::error::Error;
use hyper::http::Uri;
use std::fmt;

/// `ws://HOST:PORT/ROOM` or `wss://HOST:PORT/ROOM`; `http` and `https` say the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoomUrl {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) room: String,
}

impl RoomUrl {
    pub fn parse(url: &str) -> Result<RoomUrl, Error> {
        let wrong = |why: &str| Error::Url { url: url.to_owned(), why: why.to_owned() };
        let uri: Uri = url.trim().parse().map_err(|e| wrong(&format!("{e}")))?;
        let tls = match uri.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            Some(_) => return Err(wrong("it begins neither with ws:// nor with wss://")),
            None => return Err(wrong("it does not begin with ws:// or wss://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("names and passwords have no place in it; a token says who you are"));
        }
        let room = uri.path().trim_matches('/');
        if room.is_empty() || room.contains('/') {
            return Err(wrong("behind the host comes one name, that of the room"));
        }
        if uri.query().is_some() {
            return Err(wrong("it has a query"));
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let host = authority.host().to_owned();
        if host.len() < authority.as_str().len() && authority.port_u16().is_none() {
            return Err(wrong("its port is none"));
        }
        Ok(RoomUrl { tls, host, port, room: room.to_owned() })
    }

    /// The host without the brackets of an IPv6 address.
    pub(crate) fn bare_host(&self) -> &str {
        self.host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(&self.host)
    }

    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for RoomUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}/{}", self.authority(), self.room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_rooms() {
        for (url, shown) in [
            ("ws://localhost:4747/shop", "ws://localhost:4747/shop"),
            ("wss://example.org/shop/", "wss://example.org:443/shop"),
            ("http://[::1]:80/a-b_c.d", "ws://[::1]:80/a-b_c.d"),
            (" https://10.0.0.1/x", "wss://10.0.0.1:443/x"),
        ] {
            assert_eq!(RoomUrl::parse(url).map(|u| u.to_string()).ok().as_deref(), Some(shown), "{url}");
        }
        assert_eq!(
            RoomUrl::parse("ws://[::1]:1/r").map(|u| u.bare_host().to_owned()).ok().as_deref(),
            Some("::1")
        );
    }

    #[test]
    fn what_is_none() {
        for url in [
            "",
            "shop",
            "shop.db",
            "ftp://a/b",
            "ws://a",
            "ws://a/",
            "ws://a/b/c",
            "ws://u:p@a/b",
            "ws://a/b?c",
            "ws:///b",
            "/tmp/shop",
            "ws://a b/c",
            "ws://a:99999/b",
        ] {
            assert!(matches!(RoomUrl::parse(url), Err(Error::Url { .. })), "{url:?}");
        }
    }
}
