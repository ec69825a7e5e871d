//! Rust source without its comments and literals, for rules that look for words of the language.

/// The text with every comment, string and character literal blanked; lines stay where they were.
pub fn bare(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut bare = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            bare.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            bare.push(if bytes[at].is_ascii() { char::from(bytes[at]) } else { ' ' });
            at += 1;
        }
    }
    bare
}

/// The end of the comment or literal that begins at `at`; `at` itself if none does.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(bytes, at);
    }
    if rest[0] == b'"' {
        return quoted_end(bytes, at + 1, b'"');
    }
    if rest[0] == b'r' && !(in_word && bytes[at - 1] != b'b' && bytes[at - 1] != b'c') {
        let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            let body = at + 2 + hashes;
            let found = bytes[body..].windows(close.len()).position(|w| w == close);
            return found.map_or(bytes.len(), |n| body + n + close.len());
        }
    }
    // A character literal, not a lifetime: 'x' or '\...'.
    if rest[0] == b'\'' {
        let escaped = rest.get(1) == Some(&b'\\');
        let width = rest.iter().skip(1).take(5).position(|b| *b == b'\'');
        let lifetime = rest.get(1).is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
        if escaped || width == Some(1) || (width.is_some() && !lifetime) {
            return quoted_end(bytes, at + 1, b'\'');
        }
    }
    at
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn quoted_end(bytes: &[u8], body: usize, quote: u8) -> usize {
    let mut at = body;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    bytes.len().min(at + 1)
}

/// The lines, counted from 1, in which `word` stands as a word of its own.
pub fn lines_with_word(bare: &str, word: &str) -> Vec<usize> {
    let lines = bare.lines().enumerate();
    lines.filter(|(_, l)| first_word_of(l, &[word]).is_some()).map(|(n, _)| n + 1).collect()
}

/// The first word of the line that is one of `words`.
pub fn first_word_of<'a>(line: &'a str, words: &[&str]) -> Option<&'a str> {
    let between = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    line.split(between).find(|w| words.contains(w))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_comments_and_literals_do_not_count() {
        let source = "// unsafe\n/* unsafe /* unsafe */ unsafe */\nlet a = \"unsafe \\\" unsafe\";\n\
                      let b = r#\"unsafe \" unsafe\"#;\nlet c = ['\"', '\\'', 'x'];\nunsafe_code\n\
                      let br = br\"unsafe\";\n";
        assert_eq!(lines_with_word(&bare(source), "unsafe"), Vec::<usize>::new());
    }

    #[test]
    fn words_of_the_language_do() {
        let source = "fn f<'a>(x: &'a str) {\n    unsafe { g(x) }\n}\nlet q = '\"'; unsafe fn h() {}\n\"\n\"; unsafe {}\n";
        assert_eq!(lines_with_word(&bare(source), "unsafe"), [2, 4, 6]);
    }
}
