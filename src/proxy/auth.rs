//! AUTH: the password of the proxy, which has nothing to do with the passwords of the nodes.
//!
//! As a server with `requirepass` and without ACLs: one password, for the user `default`.

use std::fmt;
use std::sync::Arc;

use crate::proxy::refusal::{Refusal, syntax_error};

/// The only user.
const USER: &[u8] = b"default";

/// The password of a proxy, if it has one. Its debug output does not contain it.
#[derive(Clone, Default)]
pub(crate) struct Auth {
    password: Option<Arc<str>>,
}

impl Auth {
    /// Requires this password.
    pub(crate) fn with_password(password: &str) -> Self {
        Self {
            password: Some(password.into()),
        }
    }

    /// True if no password is required.
    pub(super) fn is_open(&self) -> bool {
        self.password.is_none()
    }

    /// Checks the arguments of AUTH, the name of the command included.
    ///
    /// # Errors
    ///
    /// WRONGPASS, a syntax error, or the error of a server that has no password.
    pub(super) fn check(&self, args: &[&[u8]]) -> Result<(), Refusal> {
        let (user, given) = match (args, &self.password) {
            // The one form that a server refuses when it needs no password. With a user name, any password is
            // right.
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

/// Compares in a time that does not depend on how many leading bytes are right, so that the password cannot
/// be guessed byte by byte. Its length is not kept secret.
fn is_same(password: &[u8], given: &[u8]) -> bool {
    let differences = password
        .iter()
        .zip(given)
        .fold(0, |all, (a, b)| all | (a ^ b));
    differences == 0 && password.len() == given.len()
}

/// The error for a command before AUTH.
pub(super) fn auth_required() -> Refusal {
    Refusal::with_code("NOAUTH", "Authentication required.")
}

/// The error for HELLO without AUTH before AUTH.
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
