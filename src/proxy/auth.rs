//! Who is let in: AUTH.

use std::fmt;
use std::sync::Arc;

use crate::proxy::refusal::{Refusal, syntax_error};

/// The only user there is.
const USER: &[u8] = b"default";

/// The auth of a proxy. Open to everybody, unless there is a password.
#[derive(Clone, Default)]
pub(crate) struct Auth {
    password: Option<Arc<str>>,
}

impl Auth {
    pub(crate) fn with_password(password: &str) -> Self {
        Self {
            password: Some(password.into()),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.password.is_none()
    }

    /// Whether these words, which are those of AUTH, let somebody in.
    pub(super) fn check(&self, args: &[&[u8]]) -> Result<(), Refusal> {
        let (user, given) = match (args, &self.password) {
            ([_, _], None) => {
                return Err(Refusal::new(
                    "AUTH <password> called without any password configured for the default user. Are you sure your \
                     configuration is correct?",
                ));
            }
            ([_, given], _) => (USER, given),
            ([_, user, given], _) => (*user, given),
            _ => return Err(syntax_error()),
        };
        let password = self.password.as_deref().map(str::as_bytes);
        match user == USER && password.is_none_or(|password| is_same(password, given)) {
            true => Ok(()),
            false => Err(Refusal::with_code(
                "WRONGPASS",
                "invalid username-password pair or user is disabled.",
            )),
        }
    }
}

/// Looks at every byte, so that the time it takes does not tell how many are right.
fn is_same(password: &[u8], given: &[u8]) -> bool {
    let differences = password
        .iter()
        .zip(given)
        .fold(0, |all, (a, b)| all | (a ^ b));
    differences == 0 && password.len() == given.len()
}

/// A command before AUTH.
pub(super) fn auth_required() -> Refusal {
    Refusal::with_code("NOAUTH", "Authentication required.")
}

/// HELLO before AUTH, and without it.
pub(super) fn hello_without_auth() -> Refusal {
    Refusal::with_code(
        "NOAUTH",
        "HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option \
         can be used to authenticate the client and select the RESP protocol version at the same time",
    )
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("is_open", &self.is_open())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_accepts_only_the_default_user_with_the_password() {
        let auth = Auth::with_password("secret");
        for (words, opens) in [
            (&["AUTH", "secret"][..], true),
            (&["AUTH", "default", "secret"], true),
            (&["AUTH", "secre"], false),
            (&["AUTH", "secrets"], false),
            (&["AUTH", ""], false),
            (&["AUTH", "other", "secret"], false),
            (&["AUTH", "default", "secret", "x"], false),
        ] {
            let args: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
            assert_eq!(auth.check(&args).is_ok(), opens, "{words:?}");
        }
        assert!(Auth::default().check(&[b"AUTH", b"x"]).is_err());
        assert!(Auth::default().check(&[b"AUTH", b"default", b"x"]).is_ok());
        assert!(!format!("{auth:?}").contains("secret"));
    }
}
