//! Finds the end of a frame that arrives in pieces, without keeping or decoding it: [`FrameScanner`].
//!
//! Used for frames that are too large to be kept, and to learn when a split reply has arrived entirely.

use std::io;

use crate::resp;

/// Number of bytes of a line that are kept. More than a marker and the longest valid length need, so a line
/// that is cut cannot be mistaken for a shorter length.
const LINE_BYTES_KEPT: usize = 32;

/// Maximum depth of nested arrays. A scanner does not recurse, so it only limits the memory for `open`; the
/// limit of `decode`, where the stack is at stake, is lower.
const DEPTH_MAX: usize = 1 << 16;

/// Follows one frame, a reply or a request, through the pieces in which it arrives. Looks at each byte once,
/// and skips the bytes of bulk strings.
///
/// ```text
/// *2\r\n        open: [1] ─▶ [0, 2]      an array of two elements
/// $3\r\n        body: 5                  three bytes and CR LF
/// abc\r\n       open: [0, 1]
/// :1\r\n        open: [0, 0] ─▶ []       complete
/// ```
#[derive(Debug)]
pub(crate) struct FrameScanner {
    /// For each open aggregate, the number of elements still to come. The first entry stands for the frame
    /// itself; empty when the frame is complete.
    open: Vec<usize>,
    /// Number of bytes still to come of a bulk string, with the CR LF behind it. Zero outside of one.
    body: usize,
    /// The beginning of a line whose end has not arrived, at most [`LINE_BYTES_KEPT`] bytes.
    line: Vec<u8>,
    /// True if the last byte of that line was CR: then an LF at the start of the next piece ends it.
    at_cr: bool,
    /// Number of bytes of the frame so far.
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
    /// Takes the next piece, and returns how many of its bytes belong to the frame: all of them until it is
    /// complete.
    ///
    /// # Errors
    ///
    /// When a length cannot be read, or arrays are nested too deeply. The scanner must not be used after
    /// that.
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

    /// True once all bytes of the frame have been seen.
    pub(crate) fn is_complete(&self) -> bool {
        self.open.is_empty()
    }

    /// Number of bytes seen, and of those that are certain to come.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn scanned(&self) -> usize {
        self.passed + self.body
    }

    /// Takes the bytes that belong to the current line, its LF included. Returns their number.
    fn take_line(&mut self, piece: &[u8]) -> io::Result<usize> {
        // The CR may have been the last byte of the piece before.
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
        // Put back to reuse its memory for the next line.
        self.line = line;
        self.line.clear();
        Ok(end + 1)
    }

    /// Keeps the beginning of a line, and drops what is beyond [`LINE_BYTES_KEPT`].
    fn keep(&mut self, piece: &[u8]) {
        // The line may be an error of any length, and only lengths are needed.
        let room = LINE_BYTES_KEPT - self.line.len();
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    /// Handles a line: begins a bulk string or an aggregate, or ends an element.
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
            // Scanned as an array. A caller that must tell pushes from replies looks at the first byte.
            b'>' => resp::some_length(digits)?,
            b'%' => resp::some_length(digits)?.saturating_mul(2),
            // An attribute's pairs, then what it belongs to.
            b'|' => resp::some_length(digits)?
                .saturating_mul(2)
                .saturating_add(1),
            // Types of one line. An unknown marker is one too: the decoder refuses it.
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

    /// Begins a bulk string of `length` bytes, with the CR LF behind it.
    fn begin_body(&mut self, length: usize) -> io::Result<()> {
        self.body = length.saturating_add(2);
        Ok(())
    }

    /// Counts one element as seen, and opens an aggregate of `inner` elements. Closes all aggregates that are
    /// complete by that.
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
