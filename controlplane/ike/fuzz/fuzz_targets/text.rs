//! Texts of the configuration: proposals and identities.
#![no_main]

use ike::auth::Identity;
use ike::proposal::{EspProposal, IkeProposal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = text
        .parse::<IkeProposal>()
        .map_err(|error| error.to_string());
    let _ = text
        .parse::<EspProposal>()
        .map_err(|error| error.to_string());
    if let Ok(identity) = text.parse::<Identity>() {
        assert!(identity.matches(&identity));
        drop(identity.to_string());
    }
});
