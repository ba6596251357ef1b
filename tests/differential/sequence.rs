//! Random sequences of commands, and scenes that chance alone would hardly play.

use std::fmt;

use super::grammar::{Template, Word};
use super::judge::Rule;
use super::random::Random;
use super::templates::{self, Rows};
use super::vocabulary::{KINDS, TAGS, Vocabulary};
use super::wire::Shown;

/// The connections of a sequence. The last one is for what is not sent among others, and is never in a transaction.
pub const CONNECTIONS: usize = 3;
pub const ASIDE: usize = CONNECTIONS - 1;

/// One thing that is done to both sides.
#[derive(Clone)]
pub struct Step {
    /// The connection.
    pub on: usize,
    /// Whether it is sent in one go with the next step, if that is on the same connection.
    pub joined: bool,
    pub action: Action,
}

#[derive(Clone)]
pub enum Action {
    Command(Vec<Word>, Rule),
    /// A command that makes a key expire in a millisecond, and one that looks at it then. Nobody may count keys before.
    Expire(Vec<Word>, Vec<Word>),
    /// A command that waits, and what another connection does meanwhile.
    Wait(Vec<Word>, Vec<Word>),
}

/// Makes sequences. Reading the templates takes longer than to fill them, so it is done once.
pub struct Generator {
    groups: Vec<(&'static str, Table)>,
    keyspace: Table,
    fleet: Table,
    connection: Table,
    transactions: Table,
    scripts: Table,
    mistakes: Table,
    dump: Vec<u8>,
}

type Table = Vec<(Rule, Vec<Template>)>;

/// One sequence in the making.
struct Making<'g> {
    generator: &'g Generator,
    vocabulary: Vocabulary,
    random: Random,
    steps: Vec<Step>,
}

const STEPS: (i64, i64) = (8, 60);
/// So many of a hundred commands are spoilt: an argument too many, too few, or a wrong one.
const SPOILT: usize = 5;

impl Generator {
    /// `dump` is what DUMP says of a string.
    pub fn new(dump: Vec<u8>) -> Self {
        Self {
            groups: templates::GROUPS
                .iter()
                .map(|(name, rows)| (*name, table(rows)))
                .collect(),
            keyspace: table(templates::KEYSPACE),
            fleet: table(templates::FLEET),
            connection: table(templates::CONNECTION),
            transactions: table(templates::TRANSACTIONS),
            scripts: table(templates::SCRIPTS),
            mistakes: table(templates::MISTAKES),
            dump,
        }
    }

    pub fn sequence(&self, seed: u64) -> Vec<Step> {
        let mut random = Random::new(seed);
        let kinds = (0..3).map(|_| random.pick(&KINDS)).collect();
        let length = random.between(STEPS.0, STEPS.1) as usize;
        let mut making = Making {
            generator: self,
            vocabulary: Vocabulary {
                kinds,
                tag: None,
                dump: self.dump.clone(),
            },
            random,
            steps: Vec::new(),
        };
        while making.steps.len() < length {
            making.add();
        }
        making.steps
    }
}

fn table(rows: Rows) -> Table {
    rows.iter()
        .map(|(rule, texts)| (*rule, texts.iter().copied().map(Template::read).collect()))
        .collect()
}

impl Making<'_> {
    fn add(&mut self) {
        match self.random.below(100) {
            0..80 => {
                let on = usize::from(self.random.percent(15));
                self.choose_tag(50);
                let (words, rule) = self.command();
                self.push(on, words, rule);
            }
            80..90 => self.transaction(),
            90..93 => self.stray(),
            93..96 => self.expiry(),
            96..98 => self.wait(),
            _ => self.move_by_dump(),
        }
    }

    /// A command of any group.
    fn command(&mut self) -> (Vec<Word>, Rule) {
        let generator = self.generator;
        let table = match self.random.below(100) {
            0..64 => self.data_table(),
            64..78 => &generator.keyspace,
            78..86 => &generator.scripts,
            86..93 => &generator.fleet,
            93..97 => &generator.connection,
            _ => &generator.mistakes,
        };
        self.command_of(table)
    }

    fn data_table<'s>(&mut self) -> &'s Table
    where
        Self: 's,
    {
        let kind = self.random.pick(&self.vocabulary.kinds);
        let group = self.generator.groups.iter().find(|(name, _)| *name == kind);
        &group.expect("every kind has a group").1
    }

    fn command_of(&mut self, table: &Table) -> (Vec<Word>, Rule) {
        // Every template is as likely as any other.
        let count = table.iter().map(|(_, templates)| templates.len()).sum();
        let mut at = self.random.below(count);
        let (rule, template) = table
            .iter()
            .find_map(|(rule, templates)| match templates.get(at) {
                Some(template) => Some((*rule, template)),
                None => {
                    at -= templates.len();
                    None
                }
            })
            .expect("it is below their number");
        let mut words = template.fill(&self.vocabulary, &mut self.random);
        if self.random.percent(15) {
            words[0].bytes.make_ascii_lowercase();
        }
        if rule.is_plain() && !is_delicate(&words) && self.random.percent(SPOILT) {
            self.spoil(&mut words);
        }
        (words, rule)
    }

    fn spoil(&mut self, words: &mut Vec<Word>) {
        let at = self.random.below(words.len());
        let mut word = self.vocabulary.word("garbage", &mut self.random);
        match self.random.below(4) {
            0 => words.truncate(at.max(1)),
            1 => words.push(word),
            2 if at > 0 => {
                word.is_key = words[at].is_key;
                words[at] = word;
            }
            _ => {
                let copy = words[at].clone();
                words.insert(at, copy);
            }
        }
    }

    fn push(&mut self, on: usize, words: Vec<Word>, rule: Rule) {
        let on = if rule.is_plain() { on } else { ASIDE };
        let joined = self.random.percent(75);
        self.steps.push(Step {
            on,
            joined,
            action: Action::Command(words, rule),
        });
    }

    fn fixed(&mut self, on: usize, text: &'static str) {
        let words = Template::read(text).fill(&self.vocabulary, &mut self.random);
        self.push(on, words, Rule::Exact);
    }

    /// Most often the keys of the next commands have a tag in common.
    fn choose_tag(&mut self, chance: usize) {
        self.vocabulary.tag = self.random.percent(chance).then(|| self.random.pick(&TAGS));
    }

    fn transaction(&mut self) {
        self.choose_tag(85);
        let (on, other) = self.random.pick(&[(0, 1), (1, 0)]);
        let watches = self.random.percent(50);
        if watches {
            self.fixed(on, "WATCH { $any }");
            if self.random.percent(40) {
                self.change(other);
            }
        }
        self.fixed(on, "MULTI");
        for _ in 0..self.random.below(5) {
            let table = match self.random.percent(80) {
                true => self.data_table(),
                false => &self.generator.keyspace,
            };
            let (words, rule) = self.command_of(table);
            if rule.is_plain() {
                self.push(on, words, rule);
            }
        }
        if watches && self.random.percent(25) {
            self.change(other);
        }
        match self.random.below(10) {
            0 => {}
            1 => self.fixed(on, "DISCARD"),
            _ => self.fixed(on, "EXEC"),
        }
    }

    fn change(&mut self, on: usize) {
        let table = self.data_table();
        let (words, rule) = self.command_of(table);
        self.push(on, words, rule);
    }

    fn stray(&mut self) {
        self.choose_tag(50);
        let on = self.random.below(2);
        let (words, rule) = self.command_of(&self.generator.transactions);
        self.push(on, words, rule);
    }

    /// A key that goes away while nobody looks.
    fn expiry(&mut self) {
        self.choose_tag(50);
        let key = self.vocabulary.word("any", &mut self.random);
        let with_key = |words: &[&str]| -> Vec<Word> {
            let mut words: Vec<Word> = words.iter().copied().map(Word::text).collect();
            words.insert(1, key.clone());
            words
        };
        let expiring = match self.random.percent(50) {
            true => with_key(&["SET", "short", "PX", "1"]),
            false => with_key(&["PEXPIRE", "1"]),
        };
        self.steps.push(Step {
            on: ASIDE,
            joined: false,
            action: Action::Expire(expiring, with_key(&["TYPE"])),
        });
    }

    fn wait(&mut self) {
        self.vocabulary.tag = Some(self.random.pick(&TAGS));
        let (waiting, meanwhile) = self.random.pick(&[
            ("BLPOP $list 1", "RPUSH"),
            ("BRPOP $list 1", "LPUSH"),
            ("BLMOVE $list $list LEFT RIGHT 1", "RPUSH"),
            ("BLMPOP 1 1 $list LEFT COUNT 2", "RPUSH"),
            ("BZPOPMIN $zset 1", "ZADD"),
        ]);
        let waiting = Template::read(waiting).fill(&self.vocabulary, &mut self.random);
        let key = waiting.iter().find(|word| word.is_key).expect("it has one");
        let mut meanwhile = vec![Word::text(meanwhile), key.clone()];
        let rest: &[&str] = match meanwhile[0].bytes == b"ZADD" {
            true => &["1", "m1", "2", "m2"],
            false => &["m1", "m2"],
        };
        meanwhile.extend(rest.iter().copied().map(Word::text));
        self.steps.push(Step {
            on: ASIDE,
            joined: false,
            action: Action::Wait(waiting, meanwhile),
        });
    }

    /// Many large answers and requests in one go.
    fn move_by_dump(&mut self) {
        self.choose_tag(20);
        for text in [
            "MSET $any $value $any $value $any $value $any $value",
            "MGET $any $any $any $any $any $any $any $any",
            "EXISTS $any $any $any $any $any $any $any $any",
            "DEL $any $any $any $any $any",
        ] {
            self.fixed(0, text);
        }
    }
}

/// Whether a wrong word more or less could make it wait for long, or give it an answer of another rule.
fn is_delicate(words: &[Word]) -> bool {
    let is = |name: &[u8]| {
        words
            .iter()
            .any(|word| word.bytes.eq_ignore_ascii_case(name))
    };
    let name = words[0].bytes.to_ascii_uppercase();
    name.starts_with(b"B") && !name.starts_with(b"BIT")
        || [b"BLOCK".as_slice(), b"WAIT", b"HELLO", b"COMMAND"]
            .into_iter()
            .any(is)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = if self.joined { '+' } else { ' ' };
        write!(f, "{}{joined} ", self.on)?;
        match &self.action {
            Action::Command(words, rule) => write!(f, "{:24} ({rule:?})", Line(words)),
            Action::Expire(expiring, looking) => {
                write!(f, "{} (then {})", Line(expiring), Line(looking))
            }
            Action::Wait(waiting, meanwhile) => {
                write!(f, "{} (meanwhile {})", Line(waiting), Line(meanwhile))
            }
        }
    }
}

/// A command as redis-cli would read it.
pub struct Line<'w>(pub &'w [Word]);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        for (at, word) in self.0.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\'".contains(byte);
            let plain = !word.bytes.is_empty() && word.bytes.iter().all(is_plain);
            match plain {
                true => line.push_str(&format!("{space}{}", Shown(&word.bytes))),
                false => line.push_str(&format!("{space}\"{}\"", Shown(&word.bytes))),
            }
        }
        f.pad(&line)
    }
}
