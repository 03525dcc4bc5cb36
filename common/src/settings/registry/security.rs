//! Who is believed, and the credentials of under stores.

use crate::settings::{
    Authentication, Role, Secret,
    setting::{Setting, group},
};

group! {
    /// Who is believed.
    SecuritySettings for Role::ALL;

    /// The cluster's token. Who has it is believed.
    token: Option<Secret> = Setting::named("security.token").secret();
    /// Whom servers believe: `token` asks for the token; `simple` believes what the caller claims; `auto` is `token`
    /// where one is set, and else serves loopback only and believes the claim there.
    authentication: Authentication = Setting::named("security.authentication").default("auto")
        .alluxio(&["security.authentication.type"]);
}

const STORES: &[Role] = &[Role::Master, Role::Worker, Role::Local];

/// Credentials by name, as a mount's `--option credential=NAME` asks for them.
pub(in crate::settings) const CREDENTIALS: &[Setting] = &[
    Setting::named("credential.*").secret().of::<Secret>(
        "One value of a named credential: `credential.NAME.KEY`, in TOML `[credential.NAME]`. The name has no `_`.",
        STORES,
    ),
    Setting::named("aws.*").alluxio(&["aws.*"]).secret().of::<Secret>(
        "One value of the credential named `aws`, as `aws.accessKeyId` and `aws.secretKey` in Alluxio.",
        STORES,
    ),
];
