//! A place for an actor that is started later: actors of a shard call each other in circles.

use std::sync::{Arc, OnceLock};

use atoll_fabric::{Call, Context, Fault, Rpc};
use tonic::async_trait;

/// A link to what will be put here. Until then every call gets [`Fault::Unreachable`].
pub(crate) struct Slot<T>(Arc<OnceLock<T>>);

impl<T> Slot<T> {
    pub fn new() -> Self {
        Self(Arc::new(OnceLock::new()))
    }

    /// Puts the actor's address here. The first one stays.
    pub fn fill(&self, target: T) {
        let _ = self.0.set(target);
    }

    pub fn get(&self) -> Option<&T> {
        self.0.get()
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[async_trait]
impl<M: Rpc, T: Call<M>> Call<M> for Slot<T> {
    async fn call(&self, context: Context, message: M) -> Result<M::Reply, M::Error> {
        match self.0.get() {
            Some(target) => target.call(context, message).await,
            None => {
                let reason = "the service of this process is still starting".to_owned();
                Err(Fault::Unreachable { reason }.into())
            }
        }
    }
}
