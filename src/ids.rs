//! The names of things: newtypes over UUIDs, so that a session can never be passed where a user is meant.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new random (version 4) id.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_newtype!(
    /// A person with an e-mail address and a password hash.
    UserId
);
uuid_newtype!(
    /// A session's public handle: it stands in tokens, device lists and logs. Not the secret `session_id`.
    Sid
);
uuid_newtype!(
    /// One access token (RFC 7519 section 4.1.7).
    Jti
);
uuid_newtype!(
    /// One live socket. Sent to the client as `client`.
    ConnectionId
);
uuid_newtype!(
    /// One running gateway process; new at every start.
    NodeId
);
uuid_newtype!(
    /// One database and everything that runs on it; made by the first migration.
    DeploymentId
);
uuid_newtype!(
    /// One key of the admin API.
    AdminKeyId
);
