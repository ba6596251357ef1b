//! One reply or request, followed through the pieces in which it passes, without keeping any of them.

use std::io;

use crate::resp;

/// The part of a line that is kept: more than the mark and a length need, so that a longer line is no length.
const LINE_BYTES_KEPT: usize = 32;

/// Arrays may be nested so deeply: deeper than any script can make its reply.
const DEPTH_MAX: usize = 1 << 16;

/// How much of a reply (or of a request, which is an array of strings) has passed. No byte is looked at twice.
#[derive(Debug)]
pub(crate) struct FrameScanner {
    /// For each open array, how many of its elements are still to come.
    open: Vec<usize>,
    /// Bytes of a string that are still to come, with the CR LF behind it.
    body: usize,
    /// The beginning of a line that has not passed entirely.
    line: Vec<u8>,
    /// The last byte of that line was CR.
    at_cr: bool,
    passed: usize,
}

impl Default for FrameScanner {
    fn default() -> Self {
        Self {
            open: vec![1],
            body: 0,
            line: Vec::new(),
            at_cr: false,
            passed: 0,
        }
    }
}

impl FrameScanner {
    /// Takes the next piece; how many of its bytes still belong to it. They are all of them until it is over.
    pub(crate) fn advance(&mut self, piece: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        while at < piece.len() && !self.is_complete() {
            #[cfg(any(test, fuzzing))]
            crate::fuzzing::steps::add(1);
            if self.body > 0 {
                let count = self.body.min(piece.len() - at);
                self.body -= count;
                at += count;
                if self.body == 0 {
                    self.end_element(0);
                }
                continue;
            }
            at += self.take_line(&piece[at..])?;
        }
        self.passed += at;
        Ok(at)
    }

    /// Whether all of it has passed.
    pub(crate) fn is_complete(&self) -> bool {
        self.open.is_empty()
    }

    /// How many bytes have passed, and how many are known to come.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn scanned(&self) -> usize {
        self.passed + self.body
    }

    /// Takes what belongs to the line at hand.
    fn take_line(&mut self, piece: &[u8]) -> io::Result<usize> {
        // The CR may have come with the piece before.
        let end = match (self.at_cr, piece.first()) {
            (true, Some(b'\n')) => Some(0),
            _ => resp::line_end(piece).map(|at| at + 1),
        };
        let Some(end) = end else {
            self.keep(piece);
            self.at_cr = piece.last() == Some(&b'\r');
            return Ok(piece.len());
        };
        self.keep(&piece[..end]);
        self.at_cr = false;
        let line = std::mem::take(&mut self.line);
        self.end_line(line.strip_suffix(b"\r").unwrap_or(&line))?;
        self.line = line;
        self.line.clear();
        Ok(end + 1)
    }

    fn keep(&mut self, piece: &[u8]) {
        let room = LINE_BYTES_KEPT - self.line.len();
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn end_line(&mut self, line: &[u8]) -> io::Result<()> {
        let Some((mark, digits)) = line.split_first() else {
            self.end_element(0);
            return Ok(());
        };
        let inner = match mark {
            b'$' => match resp::length(digits)? {
                Some(length) => return self.begin_body(length),
                None => 0,
            },
            b'=' | b'!' => return self.begin_body(resp::some_length(digits)?),
            b'*' | b'~' => resp::length(digits)?.unwrap_or(0),
            b'>' => resp::some_length(digits)?,
            b'%' => resp::some_length(digits)?.saturating_mul(2),
            // An attribute's pairs, then what it belongs to.
            b'|' => resp::some_length(digits)?
                .saturating_mul(2)
                .saturating_add(1),
            _ => 0,
        };
        self.end_element(inner);
        match self.open.len() <= DEPTH_MAX {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the reply is nested too deeply",
            )),
        }
    }

    /// A string begins, and the CR LF behind it.
    fn begin_body(&mut self, length: usize) -> io::Result<()> {
        self.body = length.saturating_add(2);
        Ok(())
    }

    /// An element is over, or its inner ones begin.
    fn end_element(&mut self, inner: usize) {
        if let Some(elements) = self.open.last_mut() {
            *elements -= 1;
        }
        if inner > 0 {
            self.open.push(inner);
        }
        while self.open.last() == Some(&0) {
            self.open.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where it is over, when it comes in pieces of this size.
    fn end(bytes: &[u8], piece: usize) -> io::Result<usize> {
        let mut passage = FrameScanner::default();
        let mut at = 0;
        for piece in bytes.chunks(piece) {
            at += passage.advance(piece)?;
            if passage.is_complete() {
                break;
            }
        }
        assert!(passage.is_complete(), "{}", bytes.escape_ascii());
        Ok(at)
    }

    #[test]
    fn frame_scanner_finds_the_end_in_pieces_of_any_size() {
        let replies: [&[u8]; 14] = [
            b"+OK\r\n",
            b"-ERR a long error, longer than what is kept of a line\r\n",
            b":1\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"$0\r\n\r\n",
            b"$4\r\n\r\n\r\n\r\n",
            b"*0\r\n",
            b"*3\r\n$1\r\na\r\n*1\r\n:1\r\n$-1\r\n",
            b"%1\r\n+k\r\n~1\r\n#t\r\n",
            b"|1\r\n+ttl\r\n:1\r\n$1\r\na\r\n",
            b"*2\r\n*0\r\n%0\r\n",
            b"=6\r\ntxt:ab\r\n",
            b"*1\r\n*1\r\n*1\r\n_\r\n",
        ];
        for reply in replies {
            let followed = [reply, b"+NEXT\r\n"].concat();
            for piece in 1..=followed.len() {
                let text = reply.escape_ascii();
                assert_eq!(
                    end(&followed, piece).unwrap(),
                    reply.len(),
                    "{text} by {piece}"
                );
            }
        }
    }

    #[test]
    fn frame_scanner_knows_the_length_of_an_incomplete_bulk_string() {
        let mut passage = FrameScanner::default();
        passage.advance(b"$1000000\r\nabc").unwrap();
        assert_eq!(passage.scanned(), 10 + 1_000_000 + 2);
        assert!(!passage.is_complete());
    }

    #[test]
    fn frame_scanner_refuses_malformed_replies() {
        assert!(FrameScanner::default().advance(b"$x\r\n").is_err());
        assert!(
            FrameScanner::default()
                .advance(b"*99999999999\r\n")
                .is_err()
        );
        assert!(
            FrameScanner::default()
                .advance(&b"*1\r\n".repeat(100_000))
                .is_err()
        );
    }
}
