//! Whether the other end of a connection is who it has to be: signed by the authority, valid now, and
//! of a role that is wanted.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{Identity, Role};

/// Which roles are wanted at the other end.
pub(super) type Admits = Arc<dyn Fn(Role) -> bool + Send + Sync>;

/// What one connection has learnt of its other end.
#[derive(Debug, Default)]
pub(super) struct Met {
    pub roles: OnceLock<Arc<[Role]>>,
    /// Why it was sent away, where TLS has no word for it.
    pub refusal: OnceLock<String>,
}

/// Of one connection.
pub(super) struct Verifier {
    pub chain_id: u64,
    pub admits: Admits,
    pub roots: Arc<RootCertStore>,
    pub callers: Arc<dyn ClientCertVerifier>,
    pub provider: Arc<CryptoProvider>,
    pub met: Arc<Met>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("chain_id", &self.chain_id).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Of a certificate that the authority has signed.
    fn admit(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let refused = |reason: String| {
            // Set once: a connection shows one certificate.
            let _ = self.met.refusal.set(reason);
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
        };
        let all = Identity::all_of(certificate).map_err(&refused)?;
        let ours: Arc<[Role]> =
            all.iter().filter(|id| id.chain_id == self.chain_id).map(|id| id.role).collect();
        if !ours.iter().any(|role| (self.admits)(*role)) {
            let named: Vec<_> = all.iter().map(Identity::to_string).collect();
            let named = if named.is_empty() { "nobody".to_owned() } else { named.join(" ") };
            let chain = self.chain_id;
            return Err(refused(format!(
                "its certificate names {named}, of which none is wanted here on chain {chain}"
            )));
        }
        let _ = self.met.roles.set(ours);
        Ok(())
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.callers.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.callers.verify_client_cert(end_entity, intermediates, now)?;
        self.admit(end_entity).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.callers.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.callers.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.callers.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    /// By its identity; where it was reached does not matter.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let roots = &self.roots;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        self.admit(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
