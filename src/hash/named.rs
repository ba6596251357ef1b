//! Enumerations whose values have frozen names.

/// Declares an enumeration of plain values, each with its frozen name, which is written and read back.
macro_rules! named {
    (
        $(#[$about:meta])*
        pub enum $type:ident { $($(#[$doc:meta])* $value:ident = $name:literal,)+ }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $type { $($(#[$doc])* $value,)+ }

        impl $type {
            /// Every value there is.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];

            pub(crate) const NAMES: &'static [&'static str] = &[$($name),+];

            /// The frozen name. It goes into fingerprints.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$value => $name),+ }
            }

            /// The value of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                // A search is fast enough: names are parsed when a client is configured.
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

pub(crate) use named;
