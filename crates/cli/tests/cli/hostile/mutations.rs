//! What can be done to a frame.

/// Numbers of the wire that promise everything.
const PROMISES: [&[u8]; 3] = [
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
];

/// Truncated at every length, extended, every byte flipped, set and made into a promise; of each kind at most `most`, evenly spread.
pub fn of(frame: &[u8], most: usize) -> Vec<Vec<u8>> {
    let len = frame.len();
    let mut all: Vec<Vec<u8>> = spread(len, most).map(|at| frame[..at].to_vec()).collect();
    for tail in [&[0][..], &[0xff], &[0; 1000], frame] {
        all.push([frame, tail].concat());
    }
    for at in spread(len * 8, most) {
        let mut flipped = frame.to_vec();
        flipped[at / 8] ^= 1 << (at % 8);
        all.push(flipped);
    }
    for at in spread(len, most / 4) {
        for byte in [0, 0x7f, 0x80, 0xff] {
            let mut set = frame.to_vec();
            set[at] = byte;
            all.push(set);
        }
    }
    for at in spread(len, most / 4) {
        all.extend(PROMISES.iter().map(|p| [&frame[..at], p, &frame[at + 1..]].concat()));
    }
    all.retain(|m| m != frame);
    all
}

/// At most `most` of the numbers below `end`.
fn spread(end: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = end.min(most);
    // Halves and eighths would meet the same bit of each byte.
    (0..count)
        .map(move |i| i * end / count.max(1) + (i % 3) * usize::from(end >= 4 * most))
        .filter(move |at| *at < end)
}
