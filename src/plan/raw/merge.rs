//! Merges on frames, for the rules that programs use all the time: MSET, DEL, MGET, KEYS.
//!
//! ```text
//! AllSucceeded   +OK  +OK                           +OK
//! Sum            :2  :-1  :40                       :41
//! Concat         *2 $1 a $1 b   *0   *1 $1 c        *3 $1 a $1 b $1 c
//! KeyOrder       *2 $1 a $-1 (keys 0, 2)            *3 $1 a $1 b $-1
//!                *1 $1 b     (key 1)
//! any            -ERR x  -ERR x                     -ERR x
//! ```
//!
//! Everything else, such as frames of different kinds, an error among successes, or a sum that overflows, is
//! left to `plan::merge`, which decodes.

use crate::command::Merge;
use crate::resp::{canonical_integer, line_end, simple_length};
use crate::resp::{write_int, write_line};

/// Appends the merged reply to `out`. Returns false, and leaves `out` as it was, if the rule or these frames
/// need decoding. `keys` are the places of each part's keys in the request, for [`Merge::KeyOrder`].
pub(in crate::plan) fn merge_raw(
    rule: Merge,
    frames: &[&[u8]],
    keys: &[&[u32]],
    out: &mut Vec<u8>,
) -> bool {
    // A scan that ends at a node that went out has no parts, and so no frame to begin from.
    if frames.is_empty() {
        return false;
    }
    // Before any rule: an error that all nodes share is the reply, whatever the rule.
    if let Some(error) = common_error(frames) {
        out.extend_from_slice(error);
        return true;
    }
    match rule {
        Merge::AllSucceeded if frames.iter().all(|frame| frame.starts_with(b"+")) => {
            out.extend_from_slice(frames.first().copied().unwrap_or_default());
            true
        }
        Merge::Sum => match sum(frames) {
            Some(sum) => {
                write_int(out, sum);
                true
            }
            None => false,
        },
        // Nothing is written before all headers have been read, so a failure leaves `out` as it was.
        Merge::Concat => concatenated(frames, out).is_some(),
        Merge::KeyOrder => match in_key_order(frames, keys) {
            Some(items) => {
                write_line(out, b'*', items.len());
                items.iter().for_each(|item| out.extend_from_slice(item));
                true
            }
            None => false,
        },
        _ => false,
    }
}

/// Returns the error that all parts have in common, byte for byte. Errors quote bytes of the request, which
/// need not be UTF-8, so decoding would change them.
fn common_error<'f>(frames: &[&'f [u8]]) -> Option<&'f [u8]> {
    let (&first, rest) = frames.split_first()?;
    let is_common = first.starts_with(b"-") && rest.iter().all(|&frame| frame == first);
    is_common.then_some(first)
}

/// Returns the sum of integer replies; `None` if it overflows or one is not an integer.
fn sum(frames: &[&[u8]]) -> Option<i64> {
    let mut numbers = frames.iter().map(|frame| number(frame, b':'));
    numbers.try_fold(0_i64, |sum, number| sum.checked_add(number?))
}

/// Returns the number in the first line of a frame of the kind `mark`, such as `:` or `*`.
fn number(frame: &[u8], mark: u8) -> Option<i64> {
    let digits = frame.strip_prefix(&[mark])?;
    canonical_integer(&digits[..line_end(digits)?])
}

/// Appends the elements of all parts under one header. The elements are copied as one block each part and not
/// looked at: there may be millions.
fn concatenated(frames: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let mut count = 0;
    for frame in frames {
        count += usize::try_from(number(frame, b'*')?).ok()?;
    }
    // The headers count too, which is a few bytes more than needed, and spares a second pass.
    out.reserve(frames.iter().map(|frame| frame.len()).sum());
    write_line(out, b'*', count);
    for frame in frames {
        out.extend_from_slice(&frame[line_end(frame)? + 2..]);
    }
    Some(())
}

/// Returns the elements of all parts in the places of their keys; `None` if a part has not one element per
/// key, or an element is itself an array, whose end is not found here.
fn in_key_order<'f>(frames: &[&'f [u8]], keys: &[&[u32]]) -> Option<Vec<&'f [u8]>> {
    let total = keys.iter().map(|part| part.len()).sum();
    let mut items: Vec<&[u8]> = vec![b""; total];
    for (frame, keys) in frames.iter().zip(keys) {
        if number(frame, b'*')? != keys.len() as i64 {
            return None;
        }
        let mut rest = &frame[line_end(frame)? + 2..];
        for &key in *keys {
            let (item, behind) = rest.split_at_checked(simple_length(rest)?)?;
            *items.get_mut(key as usize)? = item;
            rest = behind;
        }
    }
    Some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(rule: Merge, frames: &[&str], keys: &[&[u32]]) -> Option<String> {
        let frames: Vec<&[u8]> = frames.iter().map(|frame| frame.as_bytes()).collect();
        let mut out = Vec::new();
        let done = merge_raw(rule, &frames, keys, &mut out);
        assert!(
            done || out.is_empty(),
            "what cannot be merged is left alone"
        );
        done.then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn raw_merge_joins_plain_replies_byte_for_byte() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            merged(Merge::AllSucceeded, &["+OK\r\n", "+OK\r\n"], &[]),
            some("+OK\r\n")
        );
        assert_eq!(
            merged(Merge::Sum, &[":2\r\n", ":-1\r\n", ":40\r\n"], &[]),
            some(":41\r\n")
        );
        assert_eq!(
            merged(
                Merge::KeyOrder,
                &["*2\r\n$1\r\na\r\n$-1\r\n", "*1\r\n$3\r\n\r\n\r\r\n"],
                &[&[0, 2], &[1]]
            ),
            some("*3\r\n$1\r\na\r\n$3\r\n\r\n\r\r\n$-1\r\n")
        );
        assert_eq!(
            merged(
                Merge::Concat,
                &[
                    "*2\r\n$1\r\na\r\n$1\r\nb\r\n",
                    "*0\r\n",
                    "*1\r\n$1\r\nc\r\n"
                ],
                &[]
            ),
            some("*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n")
        );
    }

    #[test]
    fn raw_merge_passes_on_an_error_common_to_all_nodes() {
        let error = b"-ERR no such option '\xff'\r\n".as_slice();
        for rule in [
            Merge::AllSucceeded,
            Merge::Sum,
            Merge::KeyOrder,
            Merge::Texts,
        ] {
            let mut out = Vec::new();
            assert!(merge_raw(rule, &[error, error], &[], &mut out));
            assert_eq!(out, error);
        }
        let errors = ["-ERR a\r\n", "-ERR b\r\n"];
        assert_eq!(merged(Merge::AllSucceeded, &errors, &[]), None);
    }

    #[test]
    fn raw_merge_leaves_other_replies_to_the_decoding_merge() {
        for (rule, frames) in [
            (Merge::AllSucceeded, ["+OK\r\n", "-ERR no\r\n"]),
            (Merge::Concat, ["*0\r\n", "-ERR no\r\n"]),
            (Merge::Concat, ["*0\r\n", "~0\r\n"]),
            (Merge::Concat, ["*0\r\n", "*-1\r\n"]),
            (Merge::Sum, [":1\r\n", "-ERR no\r\n"]),
            (Merge::Sum, [":1\r\n", ":99999999999999999999\r\n"]),
            (Merge::Sum, [":1\r\n", ":9223372036854775807\r\n"]),
            (
                Merge::KeyOrder,
                ["*1\r\n$1\r\na\r\n", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"],
            ),
            (Merge::KeyOrder, ["*1\r\n$1\r\na\r\n", "*1\r\n*1\r\n:1\r\n"]),
            (Merge::KeyOrder, ["*1\r\n$1\r\na\r\n", "*1\r\n$9\r\na\r\n"]),
            (Merge::KeyOrder, ["*1\r\n$1\r\na\r\n", "-ERR no\r\n"]),
            (Merge::Max, [":1\r\n", ":2\r\n"]),
        ] {
            assert_eq!(merged(rule, &frames, &[&[0], &[1]]), None, "{frames:?}");
        }
    }
}
