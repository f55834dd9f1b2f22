//! The shape of `src/`: no two modules import each other, not even by way of others, and unsafe code is
//! in two folders only. It reads the source, as the compiler allows both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Where unsafe code may be.
const UNSAFE: [&str; 2] = ["pg::raw", "pg::memory"];

/// A module, by the names that lead to it from the crate.
type Module = Vec<String>;

/// A path as a module writes it: `crate`, `self`, `super` or a name first.
type Written = Vec<String>;

#[derive(Default)]
struct Source {
    file: String,
    /// Written within the file of the module around it.
    is_inline: bool,
    /// What it says elsewhere, and on which line.
    paths: Vec<(Written, usize)>,
    /// The names that `use` declarations bring in.
    names: BTreeMap<String, Written>,
    unsafe_lines: Vec<usize>,
}

#[derive(Default)]
struct Tree {
    modules: BTreeMap<Module, Source>,
}

impl Tree {
    fn of(folder: &Path) -> Self {
        let mut tree = Self::default();
        tree.read(folder, &folder.join("lib.rs"), Vec::new());
        tree
    }

    fn read(&mut self, folder: &Path, file: &Path, module: Module) {
        let text =
            fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let syntax =
            syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let source = Source { file: name_of(file), ..Source::default() };
        self.modules.insert(module.clone(), source);
        self.items(folder, file, &module, &syntax.items);
    }

    fn items(&mut self, folder: &Path, file: &Path, module: &Module, items: &[syn::Item]) {
        for item in items {
            if let syn::Item::Mod(inner) = item {
                if is_test(&inner.attrs) {
                    continue;
                }
                let mut path = module.clone();
                path.push(inner.ident.to_string());
                match &inner.content {
                    Some((_, items)) => {
                        let source =
                            Source { file: name_of(file), is_inline: true, ..Source::default() };
                        self.modules.insert(path.clone(), source);
                        self.items(folder, file, &path, items);
                    }
                    None => {
                        let stem = folder.join(path.join("/"));
                        let own = stem.with_extension("rs");
                        let file = if own.exists() { own } else { stem.join("mod.rs") };
                        self.read(folder, &file, path);
                    }
                }
            } else {
                let source = self.modules.get_mut(module).unwrap();
                Reader { source }.visit_item(item);
            }
        }
    }

    /// The module that holds what a path names, by way of what modules on the way re-export; nothing
    /// if that is another crate's.
    fn resolve(&self, from: &Module, written: &[String], depth: usize) -> Option<Module> {
        let mut at = from.clone();
        let mut rest = written;
        match written.first()?.as_str() {
            "crate" => (at, rest) = (Vec::new(), &written[1..]),
            "self" => rest = &written[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            // A child, or a name brought in. What `use` itself brings in is not looked up again.
            name => {
                let child = [&at[..], &[name.to_owned()]].concat();
                if !self.modules.contains_key(&child) && !self.modules[&at].names.contains_key(name)
                {
                    return None;
                }
            }
        }
        while let Some((name, after)) = rest.split_first() {
            let child = [&at[..], std::slice::from_ref(name)].concat();
            if self.modules.contains_key(&child) {
                (at, rest) = (child, after);
            } else if let Some(other) = self.modules[&at].names.get(name).filter(|_| depth < 8) {
                let onward = [&other[..], after].concat();
                let own = other.first().is_some_and(|first| first == name);
                return if own { Some(at) } else { self.resolve(&at, &onward, depth + 1) };
            } else {
                break;
            }
        }
        Some(at)
    }

    /// The module of the file in which a module is written.
    fn of_file(&self, module: &Module) -> &Module {
        let mut module = module.clone();
        while self.modules[&module].is_inline {
            module.pop();
        }
        self.modules.get_key_value(&module).unwrap().0
    }

    /// Which file uses which, and where.
    fn uses(&self) -> BTreeMap<&Module, BTreeMap<Module, String>> {
        let mut uses = BTreeMap::new();
        for (module, source) in &self.modules {
            let from = self.of_file(module);
            let others: &mut BTreeMap<Module, String> = uses.entry(from).or_default();
            for (written, line) in &source.paths {
                let other =
                    self.resolve(module, written, 0).map(|other| self.of_file(&other).clone());
                if let Some(other) = other.filter(|other| other != from) {
                    others.entry(other).or_insert_with(|| format!("{}:{line}", source.file));
                }
            }
        }
        uses
    }
}

struct Reader<'a> {
    source: &'a mut Source,
}

impl Reader<'_> {
    fn tree(&mut self, tree: &syn::UseTree, mut before: Written, line: usize) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(&path.tree, before, line);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.tree(tree, before.clone(), line));
            }
            syn::UseTree::Glob(_) => self.source.paths.push((before, line)),
            syn::UseTree::Name(name) => {
                if name.ident != "self" {
                    before.push(name.ident.to_string());
                }
                self.bring(before.last().cloned(), before, line);
            }
            syn::UseTree::Rename(rename) => {
                if rename.ident != "self" {
                    before.push(rename.ident.to_string());
                }
                self.bring(Some(rename.rename.to_string()), before, line);
            }
        }
    }

    fn bring(&mut self, name: Option<String>, path: Written, line: usize) {
        if let Some(name) = name {
            self.source.names.insert(name, path.clone());
        }
        self.source.paths.push((path, line));
    }

    /// The arguments of macros are only tokens: `crate::x`, `super::x` are paths, and `unsafe` is unsafe.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Written = Vec::new();
        let mut after_colons = false;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    let line = ident.span().start().line;
                    if ident == "unsafe" {
                        self.source.unsafe_lines.push(line);
                    }
                    // A longer path takes the place of its beginning.
                    if after_colons && path.len() > 1 {
                        self.source.paths.pop();
                    } else if !after_colons {
                        path.clear();
                    }
                    path.push(ident.to_string());
                    let is_ours = matches!(path[0].as_str(), "crate" | "super" | "self");
                    if is_ours && path.len() > 1 {
                        self.source.paths.push((path.clone(), line));
                    } else if !is_ours {
                        path.clear();
                    }
                    after_colons = false;
                }
                TokenTree::Punct(punct) => after_colons = punct.as_char() == ':',
                TokenTree::Group(group) => {
                    self.tokens(group.stream());
                    path.clear();
                }
                TokenTree::Literal(_) => path.clear(),
            }
        }
    }

    fn unsafe_at(&mut self, what: Option<impl Spanned>) {
        self.source.unsafe_lines.extend(what.map(|what| what.span().start().line));
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, Vec::new(), item.span().start().line);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let written: Written =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if written.len() > 1 {
            self.source.paths.push((written, path.span().start().line));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.unsafe_at(Some(block.unsafe_token));
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.unsafe_at(signature.unsafety);
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.unsafe_at(item.unsafety);
        visit::visit_item_impl(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.unsafe_at(item.unsafety);
        visit::visit_item_trait(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        self.unsafe_at(attribute.path().is_ident("unsafe").then_some(attribute));
    }
}

fn name_of(file: &Path) -> String {
    file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(file).display().to_string()
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

/// The shortest way from a module back to itself.
fn circle<'a>(
    uses: &'a BTreeMap<&Module, BTreeMap<Module, String>>,
    module: &'a Module,
) -> Option<Vec<&'a Module>> {
    let mut ways = vec![vec![module]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for other in uses[way[way.len() - 1]].keys() {
                if other == module {
                    return Some([&way[..], &[other]].concat());
                }
                if seen.insert(other) {
                    longer.push([&way[..], &[other]].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

fn source() -> Tree {
    Tree::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

#[test]
fn no_module_imports_itself_by_way_of_others() {
    let tree = source();
    let uses = tree.uses();
    let mut found = BTreeMap::new();
    for module in uses.keys().copied() {
        if let Some(way) = circle(&uses, module) {
            let members: BTreeSet<_> = way.iter().copied().collect();
            let steps = way.windows(2).map(|step| {
                let (from, to) = (step[0], step[1]);
                format!("  {} uses {} ({})", from.join("::"), to.join("::"), uses[from][to])
            });
            found.entry(members).or_insert_with(|| steps.collect::<Vec<_>>().join("\n"));
        }
    }
    let found: Vec<_> = found.into_values().collect();
    assert!(found.is_empty(), "{} circles:\n{}", found.len(), found.join("\n\n"));
}

#[test]
fn unsafe_code_is_in_two_folders_only() {
    let mut found = Vec::new();
    for (module, source) in source().modules {
        let name = module.join("::");
        if !UNSAFE.iter().any(|room| name == *room || name.starts_with(&format!("{room}::"))) {
            found.extend(source.unsafe_lines.iter().map(|line| format!("{}:{line}", source.file)));
        }
    }
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

/// The numbers of `sql/` are the order in which its files are joined: what one uses, an earlier one or
/// itself declares. PL/pgSQL would not mind.
#[test]
fn sql_files_use_what_was_declared_before() {
    let mut files: Vec<_> = fs::read_dir("sql").unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let texts: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let declared: BTreeMap<_, _> = texts
        .iter()
        .enumerate()
        .flat_map(|(number, text)| text.lines().map(move |line| (number, line)))
        .filter_map(|(number, line)| {
            let rest = [
                "CREATE FUNCTION ",
                "CREATE PROCEDURE ",
                "CREATE TABLE ",
                "CREATE VIEW ",
                "CREATE TYPE ",
            ]
            .into_iter()
            .find_map(|kind| line.strip_prefix(kind))?;
            Some((name_at(rest)?, number))
        })
        .rev()
        .collect();
    let mut late = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("--"));
        // A COMMENT may refer to what comes later.
        let mut in_comment = false;
        for line in code {
            in_comment |= line.starts_with("COMMENT ON ");
            if !in_comment {
                let used = line.match_indices("api_key").filter_map(|(at, _)| name_at(&line[at..]));
                late.extend(
                    used.filter(|name| declared.get(name).is_some_and(|by| *by > number))
                        .map(|name| format!("{} uses {name}", files[number].display())),
                );
            }
            in_comment &= !line.ends_with(';');
        }
    }
    assert!(late.is_empty(), "declared in a later file:\n  {}", late.join("\n  "));
}

/// The qualified name that a text begins with.
fn name_at(text: &str) -> Option<String> {
    let schema =
        ["api_key_internal.", "api_key."].into_iter().find(|schema| text.starts_with(schema))?;
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name: String = text[schema.len()..].chars().take_while(|&c| is_part(c)).collect();
    (!name.is_empty()).then(|| format!("{schema}{name}"))
}
