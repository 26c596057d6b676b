//! Who a process is: `spiffe://atoll/<chain id>/<role>/<name>`, a URI in the subject alternative names
//! of its certificate. A process with several roles has as many URIs.

use std::{fmt, str::FromStr};

use rustls::pki_types::CertificateDer;

const SCHEME: &str = "spiffe://atoll/";
/// Identities that are read of one certificate.
const MOST: usize = 16;
/// Length of a name.
const NAME_BYTES: usize = 63;

/// What a process may be to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Beacon,
    /// Any service of the shard.
    Shard(u16),
    Gateway,
    /// Takes backups, and serves those who do.
    Operator,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beacon => f.write_str("beacon"),
            Self::Shard(id) => write!(f, "shard/{id}"),
            Self::Gateway => f.write_str("gateway"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

/// One role on one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub chain_id: u64,
    pub role: Role,
    /// Tells those of one role apart, for people. Letters, digits, `-`, `_` and `.`.
    pub name: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.chain_id, self.role, self.name)
    }
}

/// Digits as they are written, and no others: one identity has one spelling.
fn number<N: FromStr + ToString>(text: &str) -> Option<N> {
    text.parse::<N>().ok().filter(|number| number.to_string() == text)
}

impl Identity {
    /// `None` if it is not spelled as identities are.
    pub fn parse(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let chain_id = number(parts.next()?)?;
        let role = match parts.next()? {
            "beacon" => Role::Beacon,
            "shard" => Role::Shard(number(parts.next()?)?),
            "gateway" => Role::Gateway,
            "operator" => Role::Operator,
            _ => return None,
        };
        let name = parts.next()?;
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(fine) {
            return None;
        }
        parts.next().is_none().then(|| Self { chain_id, role, name: name.to_owned() })
    }

    /// Those that a certificate names. URIs of others are passed over.
    ///
    /// # Errors
    /// Says what is wrong with the certificate: one that names something of ours in a spelling of its
    /// own is not to be half believed.
    pub(super) fn all_of(certificate: &CertificateDer<'_>) -> Result<Vec<Self>, String> {
        let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|e| e.to_string())?;
        let mut found = Vec::new();
        for uri in parsed.valid_uri_names().filter(|uri| uri.starts_with("spiffe://")) {
            let identity = Self::parse(uri).ok_or_else(|| format!("{uri:?} is no identity"))?;
            found.push(identity);
            if found.len() > MOST {
                return Err(format!("it has more than {MOST} identities"));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_one_spelling() {
        for (role, text) in [
            (Role::Beacon, "spiffe://atoll/31337/beacon/a"),
            (Role::Shard(7), "spiffe://atoll/31337/shard/7/shard-7.atoll_x"),
            (Role::Gateway, "spiffe://atoll/31337/gateway/0"),
            (Role::Operator, "spiffe://atoll/31337/operator/ann"),
        ] {
            let identity = Identity::parse(text).expect(text);
            assert_eq!((identity.chain_id, identity.role), (31_337, role));
            assert_eq!(identity.to_string(), text);
        }
        for bad in [
            "",
            "spiffe://atoll/",
            "spiffe://other/1/beacon/a",
            "https://atoll/1/beacon/a",
            "spiffe://atoll/1/beacon",
            "spiffe://atoll/1/beacon/",
            "spiffe://atoll/1/beacon/a/b",
            "spiffe://atoll/01/beacon/a",
            "spiffe://atoll/+1/beacon/a",
            "spiffe://atoll/-1/beacon/a",
            "spiffe://atoll/18446744073709551616/beacon/a",
            "spiffe://atoll/1/shard/a",
            "spiffe://atoll/1/shard/65536/a",
            "spiffe://atoll/1/shard/00/a",
            "spiffe://atoll/1/king/a",
            "spiffe://atoll/1/Beacon/a",
            "spiffe://atoll/1/beacon/a b",
            "spiffe://atoll/1/beacon/é",
        ] {
            assert_eq!(Identity::parse(bad), None, "{bad}");
        }
        let long = format!("spiffe://atoll/1/beacon/{}", "a".repeat(NAME_BYTES + 1));
        assert_eq!(Identity::parse(&long), None);
    }
}
