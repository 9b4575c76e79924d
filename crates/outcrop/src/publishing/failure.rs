//! The publisher's errors as this program's.

use crate::error::{Error, Kind};
use publisher::convert::ConvertError;
use publisher::layer::LayerError;
use publisher::publish::PublishError;
use publisher::{SourceError, StorageError};

impl From<publisher::Kind> for Kind {
    fn from(kind: publisher::Kind) -> Self {
        match kind {
            publisher::Kind::Usage => Self::Usage,
            publisher::Kind::Config => Self::Config,
            publisher::Kind::Unavailable => Self::Unavailable,
            publisher::Kind::Corrupt => Self::Corrupt,
            publisher::Kind::Internal => Self::Internal,
        }
    }
}

/// The outermost message becomes ours; what lies below it stays its cause.
fn wrapped<E: std::error::Error + Send + Sync + 'static>(
    kind: Kind,
    hint: Option<&str>,
    error: E,
) -> Error {
    let ours = Error::new(kind, error.to_string());
    let ours = match std::error::Error::source(&error) {
        // The message is repeated below only if there is more to say.
        Some(_) => ours.because(error),
        None => ours,
    };
    match hint {
        Some(hint) => ours.hint(hint),
        None => ours,
    }
}

impl From<publisher::Error> for Error {
    fn from(error: publisher::Error) -> Self {
        wrapped(error.kind().into(), error.hint(), error)
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        publisher::Error::from(error).into()
    }
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Self {
        let hint = match error.kind() {
            publisher::Kind::Unavailable => Some(
                "is the registry up, and may you pull? `docker login`, or --docker-config; --plain-http for one without TLS",
            ),
            publisher::Kind::Usage => Some(
                "such as registry.example.org/group/image:1.0, oci-layout:DIR[:TAG] or docker-archive:FILE",
            ),
            _ => None,
        };
        wrapped(error.kind().into(), hint, error)
    }
}

impl From<PublishError> for Error {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Source(error) => error.into(),
            PublishError::Repository(error) => error.into(),
            PublishError::NoName(_) => wrapped(
                Kind::Usage,
                Some("name it with --name, such as --name registry.example.org/group/image:1.0"),
                error,
            ),
            // It broke off; what is damaged or refused is another error.
            PublishError::Layer { ref source, .. } if matches!(**source, LayerError::Read(_)) => {
                wrapped(
                    Kind::Unavailable,
                    Some("is the registry still up? nothing of the image is published; try again"),
                    error,
                )
            }
            other => wrapped(Kind::Corrupt, None, other),
        }
    }
}

impl From<ConvertError> for Error {
    fn from(error: ConvertError) -> Self {
        match error {
            ConvertError::Source(error) => error.into(),
            ConvertError::TargetName { .. } => wrapped(
                Kind::Usage,
                Some("such as registry.example.org/group/image:1.0-esgz or oci-layout:/srv/image"),
                error,
            ),
            ConvertError::Scratch(_) => wrapped(
                Kind::Unavailable,
                Some("name a directory with enough space with --scratch"),
                error,
            ),
            ConvertError::Target { .. } => wrapped(Kind::Unavailable, None, error),
            ConvertError::Push(_) => wrapped(
                Kind::Unavailable,
                Some(
                    "may you push there? `docker login`, or --docker-config; --plain-http for a registry without TLS",
                ),
                error,
            ),
            other => wrapped(Kind::Corrupt, None, other),
        }
    }
}
