//! `#[async_test]`, which redis-rs' async tests import from a crate of redis-rs that is not published.

use proc_macro::{Delimiter, TokenStream, TokenTree};

/// Makes tests of an async function. One without arguments is run once; one that takes a connection is run
/// twice, with a `MultiplexedConnection` and with a `ConnectionManager`.
#[proc_macro_attribute]
pub fn async_test(_: TokenStream, function: TokenStream) -> TokenStream {
    let mut attributes = String::new();
    let mut name = None;
    let mut takes_connection = false;
    let mut tokens = function.clone().into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(sign) if sign.as_char() == '#' && name.is_none() => {
                if let Some(TokenTree::Group(group)) = tokens.next() {
                    attributes.push_str(&format!("#{group}\n"));
                }
            }
            TokenTree::Ident(word) if word.to_string() == "fn" && name.is_none() => {
                name = tokens.next().map(|token| token.to_string());
            }
            TokenTree::Group(group)
                if group.delimiter() == Delimiter::Parenthesis && name.is_some() =>
            {
                takes_connection = !group.stream().is_empty();
                break;
            }
            _ => {}
        }
    }
    let name = name.expect("#[async_test] stands on a function");
    let tests = if takes_connection {
        let with = |suffix: &str, connection: &str| {
            format!(
                "{attributes} #[test] fn {name}_{suffix}() {{
                    let ctx = TestContext::new();
                    block_on_all(
                        async move {{ {name}({connection}.await.unwrap()).await; drop(ctx); }},
                        RuntimeType::Tokio,
                    );
                }}"
            )
        };
        with("with_multiplexed_connection", "ctx.async_connection()")
            + &with(
                "with_connection_manager",
                "ctx.client.get_connection_manager()",
            )
    } else {
        format!(
            "{attributes} #[test] fn {name}_on_tokio() {{
                block_on_all({name}(), RuntimeType::Tokio);
            }}"
        )
    };
    let tests: TokenStream = tests.parse().expect("tests are Rust");
    function.into_iter().chain(tests).collect()
}
