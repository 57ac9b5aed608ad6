//! The macro that turns one list into an enum, its conversions and its names.

/// Defines a field-less enum with explicit values, plus `ALL`, `from_raw`, `raw` and `name`.
macro_rules! abi_enum {
    ($(#[$meta:meta])* $vis:vis enum $name:ident : $repr:ident {
        $($(#[$vmeta:meta])* $variant:ident = $value:expr => $text:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($repr)]
        $vis enum $name {
            $($(#[$vmeta])* $variant = $value,)+
        }

        impl $name {
            /// Every value, in the order of definition.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The value with this number, if there is one.
            #[must_use]
            pub const fn from_raw(raw: $repr) -> Option<Self> {
                $(if raw == $value { return Some(Self::$variant); })+
                let _ = raw;
                None
            }

            /// The number that crosses the interface.
            #[must_use]
            pub const fn raw(self) -> $repr {
                self as $repr
            }

            /// A short name for messages and records.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
