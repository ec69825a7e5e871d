//! Frames: any bytes are an error or a frame, and a frame means the same when it is encoded again.

use crate::Target;
use crate::sessions::honest_frames;
use rejoin_wire::frame::Frame;
use rejoin_wire::limits::FRAME_BYTES_MAX;

pub const TARGET: Target = Target { name: "frame", run, seeds };

fn run(data: &[u8]) {
    let Ok(frame) = Frame::decode(data, FRAME_BYTES_MAX) else { return };
    let bytes = frame.encode().expect("what was read can be written");
    let again = Frame::decode(&bytes, FRAME_BYTES_MAX).expect("what was written can be read");
    assert_eq!(frame, again);
    assert_eq!(bytes, again.encode().expect("the same frame"), "written in another way the second time");
    assert!(Frame::decode(&bytes, bytes.len().saturating_sub(1)).is_err(), "beyond its bound");
}

fn seeds() -> Vec<Vec<u8>> {
    honest_frames()
}
