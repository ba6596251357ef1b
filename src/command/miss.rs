//! What does a server reply to a read when it has none of the keys?
//!
//! [`MissReply`] is a column of the command table, for reads whose reply to missing keys follows from the
//! request alone. A client may give it in the place of a node that cannot be reached: see
//! [`ReadsAs`](crate::ReadsAs).
//!
//! ```text
//!  GET k          Nil                $-1
//!  HMGET k f g    Each, Nil          *2 $-1 $-1
//!  HGETALL k      EmptyMap           *0 in RESP2, %0 in RESP3
//!  LPOS k e       If, by an option   $-1; with COUNT *0
//! ```
//!
//! `tests/miss_replies.rs` compares every row that has one with a real server, in RESP2 and in RESP3.

use std::fmt;

use redis::Value;

use crate::resp::{self, Protocol, write_bulk, write_int, write_line, write_status};

/// The reply of a server that has none of a request's keys, in the form of either protocol.
///
/// A command of a module gets one with [`Declaration::missing_keys`](super::Declaration::missing_keys).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissReply {
    /// Nil instead of a single value: GET, HGET, ZSCORE.
    Nil,
    /// Nil instead of an array: XREAD. RESP2 distinguishes the two.
    NilArray,
    /// A number: 0 for EXISTS and LLEN, -2 for TTL.
    Int(i64),
    /// A boolean, which RESP2 writes as 0: VISMEMBER.
    False,
    /// A string: empty for GETRANGE.
    Text(&'static str),
    /// A status: `none` for TYPE.
    Status(&'static str),
    /// An array without elements: LRANGE.
    EmptyArray,
    /// A map without entries: HGETALL. An empty array in RESP2.
    EmptyMap,
    /// A set without members: SMEMBERS. An empty array in RESP2.
    EmptySet,
    /// The end of a scan, cursor 0 and no element: HSCAN.
    EmptyScan,
    /// An array with the same reply for each argument: MGET, HMGET.
    Each {
        /// Position of the first of these arguments; the name of the command is 0.
        first: u16,
        /// Number of arguments for one element of the array: 1 for MGET, 3 for BITFIELD_RO.
        step: u16,
        /// The elements.
        reply: &'static MissReply,
    },
    /// A map with these entries: LCS with IDX. An array in RESP2.
    Map(&'static [(&'static str, MissReply)]),
    /// One of two replies, by the request: LPOS with and without COUNT.
    If {
        /// The condition.
        condition: MissCondition,
        /// The reply if the condition holds.
        then: &'static MissReply,
        /// The reply if it does not.
        otherwise: &'static MissReply,
    },
}

/// What a reply to missing keys depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissCondition {
    /// There are more arguments than this, the name included: SRANDMEMBER with a count.
    MoreArgs(u16),
    /// The argument at this position is this word, in any case: BITPOS with bit 1.
    Arg(u16, &'static str),
    /// One of the arguments from this position on is this word, in any case: LPOS with COUNT.
    AnyArg(u16, &'static str),
}

impl MissReply {
    /// Nil for each argument from `first` on.
    pub(super) const fn nil_for_each(first: u16) -> Self {
        Self::for_each(first, 1, &Self::Nil)
    }

    /// `reply` for every `step` arguments from `first` on.
    pub(super) const fn for_each(first: u16, step: u16, reply: &'static Self) -> Self {
        Self::Each { first, step, reply }
    }

    /// Nil, or an empty array if there are more than `args` arguments: the count that makes SRANDMEMBER and the
    /// like reply with an array.
    pub(super) const fn nil_or_array(args: u16) -> Self {
        Self::If {
            condition: MissCondition::MoreArgs(args),
            then: &Self::EmptyArray,
            otherwise: &Self::Nil,
        }
    }

    /// Appends the reply to the request with these arguments. Returns false, and appends nothing, if its arguments
    /// do not fit, so that the reply is not known.
    pub(crate) fn write(&self, args: &[&[u8]], protocol: Protocol, out: &mut Vec<u8>) -> bool {
        match *self {
            Self::Nil => protocol.write_nil(out),
            Self::NilArray => protocol.write_nil_array(out),
            Self::Int(number) => write_int(out, number),
            Self::False => match protocol {
                Protocol::Resp2 => write_int(out, 0),
                Protocol::Resp3 => write_line(out, b'#', 'f'),
            },
            Self::Text(text) => write_bulk(out, text.as_bytes()),
            Self::Status(text) => write_status(out, text),
            Self::EmptyArray => write_line(out, b'*', 0),
            Self::EmptyMap => protocol.write_map(out, 0),
            Self::EmptySet => protocol.write_set(out, 0),
            Self::EmptyScan => {
                write_line(out, b'*', 2);
                write_bulk(out, b"0");
                write_line(out, b'*', 0);
            }
            Self::Each { first, step, reply } => {
                return write_each(args.get(first.into()..), step.into(), out, |out| {
                    reply.write(args, protocol, out)
                });
            }
            Self::Map(entries) => {
                protocol.write_map(out, entries.len());
                for (name, reply) in entries {
                    write_bulk(out, name.as_bytes());
                    reply.write(args, protocol, out);
                }
            }
            Self::If {
                condition,
                then,
                otherwise,
            } => {
                let reply = if condition.is_met(args) {
                    then
                } else {
                    otherwise
                };
                return reply.write(args, protocol, out);
            }
        }
        true
    }

    /// True if `reply` is this one, in the form of either protocol.
    pub(crate) fn is_reply(&self, args: &[&[u8]], reply: &Value) -> bool {
        let is_text = |text: &str| match reply {
            Value::BulkString(bytes) => bytes == text.as_bytes(),
            Value::SimpleString(status) => status == text,
            _ => false,
        };
        let is_empty = || match reply {
            Value::Array(values) | Value::Set(values) => values.is_empty(),
            Value::Map(entries) => entries.is_empty(),
            _ => false,
        };
        match *self {
            Self::Nil | Self::NilArray => *reply == Value::Nil,
            Self::Int(number) => *reply == Value::Int(number),
            Self::False => matches!(reply, Value::Int(0) | Value::Boolean(false)),
            Self::Text(text) | Self::Status(text) => is_text(text),
            Self::EmptyArray | Self::EmptyMap | Self::EmptySet => is_empty(),
            Self::EmptyScan | Self::Map(_) => {
                let mut frame = Vec::new();
                [Protocol::Resp2, Protocol::Resp3]
                    .into_iter()
                    .any(|protocol| {
                        frame.clear();
                        self.write(args, protocol, &mut frame)
                            && resp::read(&mut resp::Slice(&frame)).is_ok_and(|miss| miss == *reply)
                    })
            }
            Self::Each { reply: each, .. } => match reply {
                Value::Array(values) => values.iter().all(|value| each.is_reply(args, value)),
                _ => false,
            },
            Self::If {
                condition,
                then,
                otherwise,
            } => match condition.is_met(args) {
                true => then.is_reply(args, reply),
                false => otherwise.is_reply(args, reply),
            },
        }
    }

    /// True if it can be written: no array whose elements take no arguments.
    pub(super) fn is_well_formed(&self) -> bool {
        match *self {
            Self::Each { step, reply, .. } => step > 0 && reply.is_well_formed(),
            Self::Map(entries) => entries.iter().all(|(_, reply)| reply.is_well_formed()),
            Self::If {
                then, otherwise, ..
            } => then.is_well_formed() && otherwise.is_well_formed(),
            _ => true,
        }
    }
}

/// Appends an array with one element, which `write` appends, for every `step` of these arguments. Returns
/// false, and appends nothing, if they do not come in groups of one kind.
fn write_each(
    args: Option<&[&[u8]]>,
    step: usize,
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut Vec<u8>) -> bool,
) -> bool {
    let args = args.unwrap_or_default();
    let mut groups = args.chunks_exact(step.max(1));
    // BITFIELD_RO takes OVERFLOW too, which has no element: groups that begin with different words are not
    // counted.
    let word = args.first();
    let is_alike =
        |group: &[&[u8]]| step == 1 || word.is_some_and(|word| word.eq_ignore_ascii_case(group[0]));
    if !groups.remainder().is_empty() || !groups.clone().all(is_alike) {
        return false;
    }
    write_line(out, b'*', groups.len());
    groups.all(|_| write(out))
}

impl MissCondition {
    /// True if the request with these arguments meets it.
    fn is_met(self, args: &[&[u8]]) -> bool {
        let is = |arg: &&[u8], word: &str| arg.eq_ignore_ascii_case(word.as_bytes());
        match self {
            Self::MoreArgs(count) => args.len() > usize::from(count),
            Self::Arg(at, word) => args.get(usize::from(at)).is_some_and(|arg| is(arg, word)),
            Self::AnyArg(from, word) => {
                let mut args = args.iter().skip(usize::from(from));
                args.any(|arg| is(arg, word))
            }
        }
    }
}

/// Describes the reply, for `docs/commands.md`.
impl fmt::Display for MissReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil | Self::NilArray => f.write_str("nil"),
            Self::Int(number) => write!(f, "{number}"),
            Self::False => f.write_str("false"),
            Self::Text("") => f.write_str("empty string"),
            Self::Text(text) | Self::Status(text) => f.write_str(text),
            Self::EmptyArray => f.write_str("empty array"),
            Self::EmptyMap => f.write_str("empty map"),
            Self::EmptySet => f.write_str("empty set"),
            Self::EmptyScan => f.write_str("cursor 0, nothing"),
            Self::Each {
                first,
                step: 1,
                reply,
            } => write!(f, "{reply} for each from {first}"),
            Self::Each { first, step, reply } => {
                write!(f, "{reply} for every {step} from {first}")
            }
            Self::Map(entries) => {
                for (number, (name, reply)) in entries.iter().enumerate() {
                    let separator = if number == 0 { "" } else { ", " };
                    write!(f, "{separator}{name}: {reply}")?;
                }
                Ok(())
            }
            Self::If {
                condition,
                then,
                otherwise,
            } => write!(f, "{otherwise}; {condition} {then}"),
        }
    }
}

impl fmt::Display for MissCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MoreArgs(count) => write!(f, "with more than {count} arguments"),
            Self::Arg(at, word) => write!(f, "with {word} at {at}"),
            Self::AnyArg(_, word) => write!(f, "with {word}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: MissReply, request: &str, protocol: Protocol) -> Option<String> {
        let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        let mut out = Vec::new();
        let done = reply.write(&args, protocol, &mut out);
        assert!(done || out.is_empty(), "{request}");
        done.then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn miss_reply_has_an_element_for_each_group_of_arguments() {
        let zeros = MissReply::for_each(2, 3, &MissReply::Int(0));
        let written = |request| written(zeros, request, Protocol::Resp2);
        let two = "BITFIELD_RO k GET u8 0 get u8 8";
        assert_eq!(written(two).as_deref(), Some("*2\r\n:0\r\n:0\r\n"));
        assert_eq!(written("BITFIELD_RO k").as_deref(), Some("*0\r\n"));
        assert_eq!(written("BITFIELD_RO").as_deref(), Some("*0\r\n"));
        assert_eq!(written("BITFIELD_RO k GET u8"), None);
        let mixed = "BITFIELD_RO k GET u8 0 OVERFLOW WRAP OVERFLOW";
        assert_eq!(written(mixed), None);
    }

    #[test]
    fn miss_reply_is_empty_in_the_form_of_its_protocol() {
        for (reply, resp2, resp3) in [
            (MissReply::Nil, "$-1\r\n", "_\r\n"),
            (MissReply::NilArray, "*-1\r\n", "_\r\n"),
            (MissReply::False, ":0\r\n", "#f\r\n"),
            (MissReply::EmptyMap, "*0\r\n", "%0\r\n"),
            (MissReply::EmptySet, "*0\r\n", "~0\r\n"),
        ] {
            for (protocol, expected) in [(Protocol::Resp2, resp2), (Protocol::Resp3, resp3)] {
                assert_eq!(written(reply, "X k", protocol).as_deref(), Some(expected));
            }
        }
    }
}
