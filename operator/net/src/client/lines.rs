//! Lines of bounded length out of a body without end.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::error::SessionError;
use super::transport::broken;
use crate::limits::{LimitExceeded, LimitKind};

/// Splits a body into lines. Dropping [`Lines::next`] halfway loses nothing.
pub(super) struct Lines<B = Incoming> {
    body: B,
    buffer: BytesMut,
    /// How far the buffer has been searched for an end of line.
    searched: usize,
    limit: usize,
}

impl<B> Lines<B>
where
    B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
{
    pub(super) fn new(body: B, limit: usize) -> Self {
        Lines { body, buffer: BytesMut::new(), searched: 0, limit }
    }

    /// The next line without its end; `None` after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, SessionError> {
        loop {
            if let Some(line) = self.take_line()? {
                return Ok(Some(line));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn take_line(&mut self) -> Result<Option<Bytes>, SessionError> {
        let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n').map(|at| at + self.searched);
        let length = end.unwrap_or(self.buffer.len());
        if length > self.limit {
            let (allowed, seen) = (self.limit as u64, length as u64);
            return Err(SessionError::TooLarge(LimitExceeded { limit: LimitKind::AnswerBytes, allowed, seen }));
        }
        let Some(end) = end else {
            self.searched = self.buffer.len();
            return Ok(None);
        };
        self.searched = 0;
        let line = self.buffer.split_to(end).freeze();
        self.buffer.advance(1);
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    struct Frames(VecDeque<&'static [u8]>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = hyper::Error;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
            Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(Bytes::from_static(bytes)))))
        }
    }

    fn lines(frames: &[&'static [u8]]) -> Lines<Frames> {
        Lines::new(Frames(frames.iter().copied().collect()), 8)
    }

    #[tokio::test]
    async fn lines_are_found_however_they_are_cut() {
        let mut lines = lines(&[b"on", b"e\ntwo\nthr", b"", b"ee", b"\nrest"]);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            found.push(String::from_utf8(line.to_vec()).unwrap());
        }
        assert_eq!(found, ["one", "two", "three"], "what has no end of line is no line");
    }

    #[tokio::test]
    async fn a_line_without_end_is_not_collected() {
        let mut lines = lines(&[b"ok\n12345678", b"9"]);
        assert_eq!(lines.next().await.unwrap().unwrap(), "ok");
        assert!(matches!(lines.next().await, Err(SessionError::TooLarge(limit)) if limit.seen == 9));
    }
}
