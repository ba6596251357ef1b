//! Templates of commands: text with holes and choices.
//!
//! | text | makes |
//! |---|---|
//! | `$name` | what the vocabulary has for this name |
//! | `( a \| b )` | one of them |
//! | `[ a \| b ]` | nothing, or one of them |
//! | `{ a \| b }` | one to three times one of them |
//! | `#{ a }` | the same after its number |
//!
//! Everything stands between white space.

use super::random::Random;
use super::vocabulary::Vocabulary;

/// An argument of a command.
#[derive(Clone, PartialEq)]
pub struct Word {
    pub bytes: Vec<u8>,
    /// Whether it names a key.
    pub is_key: bool,
}

/// A template that was read.
pub struct Template(Vec<Piece>);

type Choices = Vec<Vec<Piece>>;

enum Piece {
    Text(&'static str),
    Hole(&'static str),
    Perhaps(Choices),
    One(Choices),
    Some(Choices),
    Counted(Choices),
}

/// No repetition is longer.
const REPEATED_MAX: usize = 3;

impl Word {
    pub fn text(text: impl Into<Vec<u8>>) -> Self {
        Self {
            bytes: text.into(),
            is_key: false,
        }
    }

    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        Self {
            bytes: key.into(),
            is_key: true,
        }
    }
}

impl Template {
    /// # Panics
    ///
    /// When a bracket has no other.
    pub fn read(text: &'static str) -> Self {
        let mut tokens = text.split_whitespace();
        let (mut choices, end) = choices(&mut tokens);
        assert!(end.is_none() && choices.len() == 1, "{text}");
        Self(choices.remove(0))
    }

    pub fn fill(&self, vocabulary: &Vocabulary, random: &mut Random) -> Vec<Word> {
        let mut words = Vec::new();
        fill(&self.0, vocabulary, random, &mut words);
        words
    }
}

/// Reads up to a closing bracket, which is handed back.
fn choices(tokens: &mut impl Iterator<Item = &'static str>) -> (Choices, Option<&'static str>) {
    let mut choices = vec![Vec::new()];
    loop {
        let token = tokens.next();
        let piece = match token {
            None | Some("]" | ")" | "}") => return (choices, token),
            Some("|") => {
                choices.push(Vec::new());
                continue;
            }
            Some("[") => Piece::Perhaps(inner(tokens, "]")),
            Some("(") => Piece::One(inner(tokens, ")")),
            Some("{") => Piece::Some(inner(tokens, "}")),
            Some("#{") => Piece::Counted(inner(tokens, "}")),
            Some(token) => match token.strip_prefix('$') {
                Some(name) => Piece::Hole(name),
                None => Piece::Text(token),
            },
        };
        choices.last_mut().expect("there is one").push(piece);
    }
}

fn inner(tokens: &mut impl Iterator<Item = &'static str>, expected: &str) -> Choices {
    let (choices, end) = choices(tokens);
    assert_eq!(end, Some(expected), "a bracket without its other");
    choices
}

fn fill(pieces: &[Piece], vocabulary: &Vocabulary, random: &mut Random, words: &mut Vec<Word>) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => words.push(Word::text(*text)),
            Piece::Hole(name) => words.push(vocabulary.word(name, random)),
            Piece::Perhaps(_) if random.percent(50) => {}
            Piece::Perhaps(choices) | Piece::One(choices) => {
                fill(
                    &choices[random.below(choices.len())],
                    vocabulary,
                    random,
                    words,
                );
            }
            Piece::Some(choices) | Piece::Counted(choices) => {
                let count = 1 + random.below(REPEATED_MAX);
                if matches!(piece, Piece::Counted(_)) {
                    words.push(Word::text(count.to_string()));
                }
                for _ in 0..count {
                    fill(
                        &choices[random.below(choices.len())],
                        vocabulary,
                        random,
                        words,
                    );
                }
            }
        }
    }
}
