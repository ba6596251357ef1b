//! Names are the field's terms: words that the crate does not use for its types, modules, functions, constants, variants
//! and fields, each with the word that stands for it. Reads the declarations in the sources.

mod sources;

use std::fmt;

use sources::{Kind, Source, Token, closing, follows, sources};

/// A refused word, as a whole word of a CamelCase or snake_case name, and what stands for it.
const REFUSED: [(&str, &str); 68] = [
    ("apart", "cross_node"),
    ("bundle", "planned_pipeline"),
    ("concern", "script_command"),
    ("cure", "function_retry"),
    ("dice", "entropy"),
    ("door", "auth"),
    ("doors", "upstreams"),
    ("ear", "pub_sub_connection"),
    ("ears", "connections"),
    ("elsewhere", "wrong_node"),
    ("front", "proxy"),
    ("front_end", "proxy"),
    ("gather", "read_round, or coalescing"),
    ("gathered", "round_input"),
    ("gathering", "coalescing"),
    ("going", "std::ops::ControlFlow"),
    ("greet", "run_handshake, or hello"),
    ("guest", "client_entry"),
    ("hall", "client_registry"),
    ("hear", "record_reply"),
    ("heard", "recorded, or pub_sub_reply"),
    ("hears", "records"),
    ("hold", "blocking_time"),
    ("inbox", "reply_decoder"),
    ("listening", "subscription_tracker"),
    ("look", "probe, or parser"),
    ("mail", "send_queue_state"),
    ("mailbox", "send_queue"),
    ("meant", "matches, or intended"),
    ("meanwhile", "drain_while, or buffered"),
    ("moment", "transaction_state"),
    ("noted", "journal_entry"),
    ("notes", "script_journal"),
    ("passage", "frame_scanner"),
    ("patience", "timeout"),
    ("pipe", "streaming_connection, or pipeline"),
    ("recall", "cache_snapshot"),
    ("relay", "raw_pipeline"),
    ("remedy", "recovery"),
    ("road", "acquired"),
    ("said", "written, or local_reply"),
    ("say", "write"),
    ("says", "writes"),
    ("senseless", "is_malformed"),
    ("shape", "kind"),
    ("shard", "node"),
    ("skim", "frame_scanner"),
    ("spell", "pause_window"),
    ("spread", "fan_out"),
    ("station", "reconnecting_connection"),
    ("stations", "connections"),
    ("stranger", "unauthenticated"),
    ("talk", "client_connection, in_flight or round_trip"),
    ("tell", "write, or notify"),
    ("telling", "reply_writer"),
    ("told", "written, or notified"),
    ("trouble", "outage"),
    ("unread", "raw"),
    ("vain", "exhausted"),
    ("verdict", "decision"),
    ("virtual_node", "point"),
    ("vnode", "point"),
    ("vnodes", "points"),
    ("waiter", "in_flight"),
    ("waiters", "in_flight"),
    ("weave", "script_rewriter"),
    ("wire", "resp_stream"),
    ("woven", "rewritten"),
];

/// Names with a refused word that is a term of Redis, of redis-rs, of std or of the command table.
const TERMS: [&str; 12] = [
    // `redis::ConnectionLike`, `redis::PubSub`, `HashMap`.
    "get_db",
    "get_message",
    "get_mut",
    // `redis::Client`.
    "get_async_pubsub",
    "get_connection",
    "get_connection_manager",
    "get_connection_with_timeout",
    "get_multiplexed_async_connection",
    // Redis' channels of SSUBSCRIBE, and the way in which Jedis names its nodes.
    "Shard",
    "shard_channels",
    "ShardNode",
    // A row of the command table, beside `ask_all`.
    "tell_all",
];

#[test]
fn declared_names_contain_no_refused_words() {
    let found: Vec<String> = sources()
        .iter()
        .flat_map(|source| {
            let at = |refused: Refused| format!("{}:{}: {refused}", source.path, refused.line);
            refused(source).into_iter().map(at)
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn terms_exempt_from_the_glossary_are_still_used() {
    let sources = sources();
    let declared: Vec<&Token> = sources
        .iter()
        .flat_map(|source| declared(&source.tokens))
        .collect();
    for term in TERMS {
        let is_used = declared.iter().any(|name| name.text == term);
        assert!(is_used, "nothing is called {term}: take it off the list");
    }
}

#[test]
fn glossary_finds_a_refused_word_in_every_kind_of_declaration() {
    for code in [
        "struct Ear;",
        "pub(crate) struct PubSubEar<T> where T: Fn(u8) -> u8 { a: T }",
        "trait Ear {}",
        "mod ear { }",
        "impl A { pub async fn wait_ear(&self) {} }",
        "const EAR_BYTES: usize = 1;",
        "static EAR: u8 = 1;",
        "type Ear = u8;",
        "struct A { #[cfg(a)] pub(crate) a: Vec<(u8, B)>, pub ear: Box<dyn Fn(u8, u8)>, }",
        "enum A { /// B\n #[default] B, Ear(u8) }",
        "enum A { B { a: u8, ear: HashMap<u8, u8> }, C = 1 }",
        "#[cfg(test)] mod tests { fn a() {} } fn ear() {}",
    ] {
        let found = refused(&Source::new("a.rs", code));
        let words: Vec<&str> = found.iter().map(|refused| refused.word).collect();
        assert_eq!(words, ["ear"], "{code}");
    }
    let text = refused(&Source::new("a.rs", "\nstruct Ear;"))[0].to_string();
    assert_eq!(text, "`Ear`: write `pub_sub_connection`, not `ear`");
}

#[test]
fn glossary_ignores_other_words_comments_strings_and_local_names() {
    for code in [
        "struct Year { clear: u8, shared: Early }",
        "// struct Ear;\nconst A: &str = \"struct Ear;\";",
        "fn a(ear: u8) { let ear = ear; struct_ear(A::Ear, a.ear) }",
        "fn get(&self) {} fn forget_all() {}",
    ] {
        let found = refused(&Source::new("a.rs", code));
        assert!(found.is_empty(), "{code}: {}", found[0]);
    }
    let found = refused(&Source::new("a.rs", "fn get_all() {}"));
    assert_eq!(
        found[0].to_string(),
        "`get_all`: write `all`, not `get_all`"
    );
}

/// A declared name with a refused word.
struct Refused {
    line: usize,
    name: String,
    word: &'static str,
    instead: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.word {
            "get" => &self.name,
            word => word,
        };
        write!(f, "`{}`: write `{}`, not `{word}`", self.name, self.instead)
    }
}

/// The declared names that hold a refused word.
fn refused(source: &Source) -> Vec<Refused> {
    let mut found = Vec::new();
    for name in declared(&source.tokens) {
        if TERMS.contains(&name.text.as_str()) {
            continue;
        }
        let snake = snake_case(&name.text);
        let words = format!("_{snake}_");
        let mut refuse = |word, instead: &str| {
            found.push(Refused {
                line: name.line,
                name: name.text.clone(),
                word,
                instead: instead.to_owned(),
            });
        };
        for (word, instead) in REFUSED {
            if words.contains(&format!("_{word}_")) {
                refuse(word, instead);
            }
        }
        if let Some(rest) = snake.strip_prefix("get_") {
            refuse("get", rest);
        }
    }
    found
}

/// `ClientURLs` is `client_urls`, and so on.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    let mut before = '_';
    for c in name.chars() {
        if c.is_uppercase() && (before.is_lowercase() || before.is_ascii_digit()) {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
        before = c;
    }
    snake
}

/// The names of everything that is declared: types, traits, modules, functions, constants, variants and fields.
fn declared(tokens: &[Token]) -> Vec<&Token> {
    const ITEMS: [&str; 9] = [
        "const", "enum", "fn", "mod", "static", "struct", "trait", "type", "union",
    ];
    let mut names = Vec::new();
    for at in 0..tokens.len().saturating_sub(1) {
        let Some(item) = ITEMS.iter().find(|item| tokens[at].is(item)) else {
            continue;
        };
        let name = &tokens[at + 1];
        if name.kind != Kind::Word || name.is("fn") {
            continue;
        }
        names.push(name);
        if !["enum", "struct", "union"].contains(item) {
            continue;
        }
        let body = (at + 2..tokens.len())
            .find(|&at| ["{", ";", "("].iter().any(|mark| tokens[at].is(mark)));
        if let Some(body) = body
            && tokens[body].is("{")
        {
            let end = closing(tokens, body);
            members(&tokens[body + 1..end], *item == "enum", &mut names);
        }
    }
    names
}

/// The variants of an enum and the fields of its variants, or the fields of a struct.
fn members<'t>(tokens: &'t [Token], of_enum: bool, names: &mut Vec<&'t Token>) {
    let mut at = 0;
    while at < tokens.len() {
        while follows(tokens, at, &["#", "["]) {
            at = closing(tokens, at + 1) + 1;
        }
        if follows(tokens, at, &["pub"]) {
            at += 1;
            if follows(tokens, at, &["("]) {
                at = closing(tokens, at) + 1;
            }
        }
        let is_field = follows(tokens, at, &["*", ":"]) && !follows(tokens, at, &["*", ":", ":"]);
        if is_field || of_enum && follows(tokens, at, &["*"]) {
            names.push(&tokens[at]);
        }
        if of_enum && follows(tokens, at, &["*", "{"]) {
            let end = closing(tokens, at + 1);
            members(&tokens[at + 2..end], false, names);
        }
        while at < tokens.len() && !tokens[at].is(",") {
            let opens = ["(", "[", "{"].iter().any(|mark| tokens[at].is(mark));
            at = if opens {
                closing(tokens, at) + 1
            } else {
                at + 1
            };
        }
        at += 1;
    }
}
