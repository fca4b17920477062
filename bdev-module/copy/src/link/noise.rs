//! Keys and the Noise handshake, with all chance drawn from a seed.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};

/// The pattern: the initiator knows the responder's static key and sends its own in the first message.
const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";

/// Mixed into both sides' handshake hash: another protocol or version cannot be talked into one of ours.
const PROLOGUE: &[u8] = b"longrun link, version 1";

/// Bytes that the first message has beside its payload: ephemeral key, sealed static key, tag of the payload.
pub(crate) const INITIATION_OVERHEAD_BYTES: usize = 32 + 48 + 16;
/// Bytes that the second message has beside its payload: ephemeral key, tag of the payload.
pub(crate) const ANSWER_OVERHEAD_BYTES: usize = 32 + 16;

/// Randomness for snow, from a seed.
struct Seeded(ChaCha20Rng);

impl Random for Seeded {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

/// Resolves everything as snow does, but for the random source.
struct SeededResolver([u8; 32]);

impl CryptoResolver for SeededResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded(ChaCha20Rng::from_seed(self.0))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// The public half of an X25519 private key.
pub fn public_of(private_key: &[u8; 32]) -> [u8; 32] {
    let mut public = [0; 32];
    // The resolver is built with Curve25519; were it not, every handshake would fail, so the zero key is harmless.
    if let Some(mut dh) = DefaultResolver.resolve_dh(&DHChoice::Curve25519) {
        dh.set(private_key);
        public.copy_from_slice(dh.pubkey());
    }
    public
}

/// A key pair (private, public) for `longrun keygen`. The seed must be 32 fresh bytes of the operating system's
/// randomness: whoever knows it knows the private key.
pub fn generate_keypair(seed: [u8; 32]) -> ([u8; 32], [u8; 32]) {
    let mut private = [0; 32];
    ChaCha20Rng::from_seed(seed).fill_bytes(&mut private);
    // RFC 7748 section 5: clamped here already, so that the printed key is the one that is used.
    private[0] &= 248;
    private[31] = (private[31] & 127) | 64;
    (private, public_of(&private))
}

/// The two keys that a handshake ends in, from this side's view.
#[derive(Clone, Copy)]
pub(crate) struct SplitKeys {
    pub(crate) send: [u8; 32],
    pub(crate) receive: [u8; 32],
}

fn state(
    private: &[u8; 32],
    remote_public: &[u8; 32],
    seed: [u8; 32],
    initiator: bool,
) -> Result<HandshakeState, snow::Error> {
    let builder = Builder::with_resolver(PATTERN.parse()?, Box::new(SeededResolver(seed)))
        .local_private_key(private)?
        .prologue(PROLOGUE)?;
    if initiator { builder.remote_public_key(remote_public)?.build_initiator() } else { builder.build_responder() }
}

/// An initiation that waits for its answer.
pub(crate) struct Initiation(HandshakeState);

impl Initiation {
    /// Begins a handshake; the message goes to the peer. `seed` must never be used again.
    pub(crate) fn begin(
        private: &[u8; 32],
        remote_public: &[u8; 32],
        seed: [u8; 32],
        payload: &[u8],
    ) -> Result<(Initiation, Vec<u8>), snow::Error> {
        let mut state = state(private, remote_public, seed, true)?;
        let mut message = vec![0; INITIATION_OVERHEAD_BYTES + payload.len()];
        let bytes = state.write_message(payload, &mut message)?;
        message.truncate(bytes);
        Ok((Initiation(state), message))
    }

    /// Reads the answer; gives its payload and the keys. After an error (a forged or foreign answer) the true answer can
    /// still be read: snow puts its state back.
    pub(crate) fn finish(&mut self, message: &[u8]) -> Result<(Vec<u8>, SplitKeys), snow::Error> {
        let mut payload = vec![0; message.len()];
        let bytes = self.0.read_message(message, &mut payload)?;
        payload.truncate(bytes);
        let (ours, theirs) = self.0.dangerously_get_raw_split();
        Ok((payload, SplitKeys { send: ours, receive: theirs }))
    }
}

/// An initiation that was read; its payload may be judged before it is answered.
pub(crate) struct Received {
    state: HandshakeState,
    pub(crate) payload: Vec<u8>,
}

impl Received {
    /// Reads a peer's initiation. Fails unless it was made for our key, by someone who holds the private half of
    /// `remote_public`.
    pub(crate) fn read(
        private: &[u8; 32],
        remote_public: &[u8; 32],
        seed: [u8; 32],
        message: &[u8],
    ) -> Result<Received, snow::Error> {
        let mut state = state(private, remote_public, seed, false)?;
        let mut payload = vec![0; message.len()];
        let bytes = state.read_message(message, &mut payload)?;
        payload.truncate(bytes);
        if state.get_remote_static() != Some(remote_public.as_slice()) {
            return Err(snow::Error::Decrypt);
        }
        Ok(Received { state, payload })
    }

    /// Answers; gives the message to send and the keys.
    pub(crate) fn answer(mut self, payload: &[u8]) -> Result<(Vec<u8>, SplitKeys), snow::Error> {
        let mut message = vec![0; ANSWER_OVERHEAD_BYTES + payload.len()];
        let bytes = self.state.write_message(payload, &mut message)?;
        message.truncate(bytes);
        let (theirs, ours) = self.state.dangerously_get_raw_split();
        Ok((message, SplitKeys { send: ours, receive: theirs }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_handshake_get_the_same_keys_crosswise() {
        let (a_private, a_public) = generate_keypair([1; 32]);
        let (b_private, b_public) = generate_keypair([2; 32]);
        let (mut initiation, first) = Initiation::begin(&a_private, &b_public, [3; 32], b"hello").unwrap();
        let received = Received::read(&b_private, &a_public, [4; 32], &first).unwrap();
        assert_eq!(received.payload, b"hello");
        let (second, b_keys) = received.answer(b"well").unwrap();
        assert!(second.len() <= first.len());
        let mut forged = second.clone();
        forged[40] ^= 1;
        assert!(initiation.finish(&forged).is_err());
        forged[0] ^= 1;
        assert!(initiation.finish(&forged).is_err());
        let (payload, a_keys) = initiation.finish(&second).unwrap();
        assert_eq!(payload, b"well");
        assert_eq!(a_keys.send, b_keys.receive);
        assert_eq!(a_keys.receive, b_keys.send);
        assert_ne!(a_keys.send, a_keys.receive);
    }

    #[test]
    fn an_initiation_by_or_for_another_key_is_refused() {
        let (a_private, a_public) = generate_keypair([1; 32]);
        let (b_private, b_public) = generate_keypair([2; 32]);
        let (c_private, c_public) = generate_keypair([5; 32]);
        let (_, by_c) = Initiation::begin(&c_private, &b_public, [3; 32], b"hello").unwrap();
        assert!(Received::read(&b_private, &a_public, [4; 32], &by_c).is_err());
        let (_, for_c) = Initiation::begin(&a_private, &c_public, [3; 32], b"hello").unwrap();
        assert!(Received::read(&b_private, &a_public, [4; 32], &for_c).is_err());
    }

    #[test]
    fn a_generated_private_key_has_the_public_key_that_was_printed_with_it() {
        let (private, public) = generate_keypair([9; 32]);
        assert_eq!(public_of(&private), public);
        assert_ne!(public, [0; 32]);
        assert_ne!(generate_keypair([10; 32]).0, private);
    }
}
