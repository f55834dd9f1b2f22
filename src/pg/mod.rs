//! What PostgreSQL is told: functions, index scans, shared memory, settings, errors.
//!
//! It translates and holds no decisions. The only unsafe code of the extension is here.

// `#[pg_extern(sql = false)]`: the SQL surface is written in sql/, which declares each function.
mod array;
mod call;
mod error;
mod jsonb;
mod keys;
mod rows;
mod settings;
mod verify;
mod work_area;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

extension_sql_file!("../../sql/00_schemas.sql", name = "schemas", bootstrap);
extension_sql_file!("../../sql/05_caller.sql", name = "caller", requires = ["schemas"]);
extension_sql_file!("../../sql/10_audit.sql", name = "audit", requires = ["caller"]);
extension_sql_file!("../../sql/15_tiers.sql", name = "tiers", requires = ["audit"]);
extension_sql_file!("../../sql/16_scopes.sql", name = "scopes", requires = ["tiers"]);
extension_sql_file!("../../sql/19_usage.sql", name = "usage", requires = ["scopes"]);
extension_sql_file!("../../sql/20_keys.sql", name = "keys", requires = ["usage"]);
extension_sql_file!("../../sql/25_verify.sql", name = "verify", requires = ["keys"]);
extension_sql_file!("../../sql/90_postgrest.sql", name = "postgrest", finalize);

/// Called by PostgreSQL when it loads the library.
#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::register();
}
