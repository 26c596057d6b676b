//! Certificates and keys that are read from files, and again when the files change.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::Duration,
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};

use super::{Identity, TlsError, provider};

/// Where they are, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate with those between it and the authority, and its key.
    pub own: Option<(PathBuf, PathBuf)>,
    /// Certificates of those who sign the certificates of others.
    pub authority: Option<PathBuf>,
}

/// What the files say.
#[derive(Debug)]
pub struct Material {
    pub(super) own: Option<Arc<CertifiedKey>>,
    /// Of the own certificate.
    pub identities: Vec<Identity>,
    pub(super) trust: Option<Trust>,
}

#[derive(Debug)]
pub(super) struct Trust {
    pub roots: Arc<RootCertStore>,
    pub callers: Arc<dyn ClientCertVerifier>,
}

/// Material that follows its files.
#[derive(Debug)]
pub struct Kept {
    files: Files,
    now: RwLock<(Vec<Vec<u8>>, Arc<Material>)>,
}

impl Files {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let own = self.own.iter().flat_map(|(certificate, key)| [certificate, key]);
        own.chain(&self.authority).map(PathBuf::as_path)
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|error| TlsError::Unreadable { path: path.to_owned(), error })
        };
        self.paths().map(read).collect()
    }

    fn make(&self, contents: &[Vec<u8>]) -> Result<Material, TlsError> {
        let mut contents = contents.iter();
        let mut next = || contents.next().map_or(&[][..], Vec::as_slice);
        let mut material = Material { own: None, identities: Vec::new(), trust: None };
        if let Some((certificate, key)) = &self.own {
            let (chain, secret) = (certificates(certificate, next())?, next());
            let unusable = |path: &Path| {
                let path = path.to_owned();
                move |reason: String| TlsError::Unusable { path, reason }
            };
            material.identities = Identity::all_of(&chain[0]).map_err(unusable(certificate))?;
            let secret = PrivateKeyDer::from_pem_slice(secret)
                .map_err(|error| unusable(key)(format!("no private key in PEM: {error}")))?;
            let own = CertifiedKey::from_der(chain, secret, &provider(true));
            let own = own.map_err(|error| {
                unusable(key)(format!("not the key of {}: {error}", certificate.display()))
            })?;
            material.own = Some(Arc::new(own));
        }
        if let Some(path) = &self.authority {
            let unusable = |reason: String| TlsError::Unusable { path: path.clone(), reason };
            let mut roots = RootCertStore::empty();
            let (added, _) = roots.add_parsable_certificates(certificates(path, next())?);
            if added == 0 {
                return Err(unusable("no certificate of an authority in it can be used".into()));
            }
            let roots = Arc::new(roots);
            let callers =
                WebPkiClientVerifier::builder_with_provider(roots.clone(), provider(true))
                    .build()
                    .map_err(|error| unusable(error.to_string()))?;
            material.trust = Some(Trust { roots, callers });
        }
        Ok(material)
    }
}

/// At least one.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unusable = |reason: String| TlsError::Unusable { path: path.to_owned(), reason };
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| unusable(format!("no certificates in PEM: {error}")))?;
    if all.is_empty() {
        return Err(unusable("no certificate in PEM".into()));
    }
    Ok(all)
}

impl Kept {
    /// Reads the files.
    ///
    /// # Errors
    /// Says which of them is of no use, and why.
    pub fn open(files: Files) -> Result<Arc<Self>, TlsError> {
        let contents = files.read()?;
        let material = Arc::new(files.make(&contents)?);
        Ok(Arc::new(Self { files, now: RwLock::new((contents, material)) }))
    }

    /// What is used for new connections.
    pub fn get(&self) -> Arc<Material> {
        self.now.read().unwrap_or_else(|poisoned| poisoned.into_inner()).1.clone()
    }

    /// Reads the files again, and says whether they have changed to something new that can be used.
    ///
    /// # Errors
    /// What is wrong with them now; what was read before stays in use. They may be half written, so
    /// this is to be tried again.
    pub fn look(&self) -> Result<bool, TlsError> {
        let contents = self.files.read()?;
        if self.now.read().unwrap_or_else(|poisoned| poisoned.into_inner()).0 == contents {
            return Ok(false);
        }
        let material = Arc::new(self.files.make(&contents)?);
        *self.now.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = (contents, material);
        Ok(true)
    }

    /// Looks so often, for as long as somebody holds this.
    pub fn watch(self: &Arc<Self>, every: Duration) {
        let kept = Arc::downgrade(self);
        tokio::spawn(async move {
            // An error is logged when it is new.
            let mut last = String::new();
            loop {
                tokio::time::sleep(every).await;
                let Some(kept) = kept.upgrade() else { return };
                let looked = tokio::task::spawn_blocking(move || (kept.look(), kept)).await;
                let Ok((looked, kept)) = looked else { continue };
                let error = match looked {
                    Ok(false) => String::new(),
                    Ok(true) => {
                        let own = kept.get();
                        let identities = own.identities.iter().map(Identity::to_string);
                        let identities = identities.collect::<Vec<_>>().join(" ");
                        tracing::info!(identities, "certificates were read again");
                        String::new()
                    }
                    Err(error) => error.to_string(),
                };
                if !error.is_empty() && error != last {
                    tracing::warn!(error, "certificates have changed to something of no use");
                }
                last = error;
            }
        });
    }
}
