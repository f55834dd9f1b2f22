//! What PostgreSQL is told: functions, index scans, shared memory, settings, errors.
//!
//! It translates and holds no decisions. The only unsafe code of the extension is here.

// `#[pg_extern(sql = false)]`: the SQL surface is written in sql/, which declares each function.
// A text that callers choose comes as bytes: in a database that is not UTF-8 it need be no `str`.
mod admission;
mod array;
mod call;
mod command;
mod error;
mod failures;
mod foreign;
mod gate;
mod id;
mod identity;
mod jsonb;
mod keys;
mod legacy;
mod limits;
mod locks;
mod pending;
mod recording;
mod references;
mod relation;
mod resources;
mod root_key;
mod rows;
mod scan;
mod settings;
mod shared;
mod stats;
mod upgrades;
mod verify;
mod work_area;
mod worker;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

extension_sql_file!("../../sql/00_schemas.sql", name = "schemas", bootstrap);
extension_sql_file!("../../sql/05_caller.sql", name = "caller", requires = ["schemas"]);
extension_sql_file!("../../sql/06_id.sql", name = "id", requires = ["caller"]);
extension_sql_file!("../../sql/10_audit.sql", name = "audit", requires = ["id"]);
extension_sql_file!("../../sql/15_tiers.sql", name = "tiers", requires = ["audit"]);
extension_sql_file!("../../sql/16_scopes.sql", name = "scopes", requires = ["tiers"]);
extension_sql_file!("../../sql/19_usage.sql", name = "usage", requires = ["scopes"]);
extension_sql_file!("../../sql/20_keys.sql", name = "keys", requires = ["usage"]);
extension_sql_file!("../../sql/25_verify.sql", name = "verify", requires = ["keys"]);
extension_sql_file!("../../sql/26_worker.sql", name = "worker", requires = ["verify"]);
extension_sql_file!("../../sql/27_stats.sql", name = "stats", requires = ["worker"]);
extension_sql_file!("../../sql/30_legacy.sql", name = "legacy", requires = ["stats"]);
extension_sql_file!("../../sql/35_compat.sql", name = "compat", requires = ["legacy"]);
extension_sql_file!("../../sql/40_gate.sql", name = "gate", requires = ["compat"]);
extension_sql_file!("../../sql/45_rate_limits.sql", name = "rate_limits", requires = ["gate"]);
extension_sql_file!(
    "../../sql/48_row_security.sql",
    name = "row_security",
    requires = ["rate_limits"]
);
extension_sql_file!("../../sql/50_tenants.sql", name = "tenants", requires = ["row_security"]);
extension_sql_file!("../../sql/55_resources.sql", name = "resources", requires = ["tenants"]);
extension_sql_file!("../../sql/57_references.sql", name = "references", requires = ["resources"]);
extension_sql_file!("../../sql/58_protection.sql", name = "protection", requires = ["references"]);
extension_sql_file!("../../sql/90_postgrest.sql", name = "postgrest", finalize);

/// Called by PostgreSQL when it loads the library.
#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: read in the process that loads the library.
    let preloading = unsafe { pg_sys::process_shared_preload_libraries_in_progress };
    settings::register(preloading);
    if preloading {
        shared::register();
        worker::register();
    }
}
