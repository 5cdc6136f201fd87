//! `jinlu types`

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cli::say;

/// What a CRM calls.
const FUNCTIONS: &[&str] = &["notifyAssignment", "messages", "staff", "subscriptions"];

/// 由输入模式生成 TypeScript 类型 · Write the functions' inputs as TypeScript types
///
/// 来源是各函数的 JSON Schema，与校验输入的是同一份；clients/crm/types.d.ts 由此生成。
/// They come from the JSON Schemas that the inputs are read by; clients/crm/types.d.ts is made this way.
///
/// Examples:
///   jinlu types --out clients/crm/types.d.ts            write the file
///   jinlu types --out clients/crm/types.d.ts --check    exit 1 if it is not what would be written
///   jinlu types submitOrder orders                      print the types of other functions
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 函数名，默认为 CRM 所用 · Functions; without any those that a CRM calls
    #[arg(value_name = "FUNCTION")]
    functions: Vec<String>,
    /// 写入文件，默认输出到屏幕 · The file to write; without it the types are printed
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// 只比较，不写入 · Only compare
    #[arg(long, requires = "out")]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let named: Vec<&str> = args.functions.iter().map(String::as_str).collect();
    let text = declarations(if named.is_empty() { FUNCTIONS } else { &named })?;
    let Some(path) = &args.out else {
        say(text.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    };
    if !args.check {
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let found = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    if found == text {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{} is not what the functions take: write it again without --check", path.display());
    Ok(ExitCode::FAILURE)
}

/// The types of the named functions' inputs, as a declaration file. Fails on a name that no function has.
fn declarations(names: &[&str]) -> Result<String> {
    let functions = gateway::functions();
    let mut text = String::from("// Made by `jinlu types` from the functions' JSON Schemas. Do not edit.\n");
    for name in names {
        let function = functions.iter().find(|function| function.name() == *name);
        let function = function.with_context(|| format!("there is no function {name}"))?;
        text.push_str(&of_function(name, &function.input_schema()));
    }
    Ok(text)
}

/// The input as `NameInput`, after the types that it refers to as `Name` + theirs.
fn of_function(name: &str, schema: &Value) -> String {
    let prefix = capitalised(name);
    let mut text = String::new();
    // By name, here and below: the order of a JSON object depends on which crates share the build.
    let mut definitions: Vec<_> = schema.get("$defs").and_then(Value::as_object).into_iter().flatten().collect();
    definitions.sort_by_key(|(name, _)| *name);
    for (definition, schema) in definitions {
        text.push_str(&declaration(&prefix, &named(&prefix, definition), schema));
    }
    text.push_str(&declaration(&prefix, &format!("{prefix}Input"), schema));
    text
}

fn declaration(prefix: &str, name: &str, schema: &Value) -> String {
    let comment = comment(schema, "");
    let is_object = schema.get("properties").is_some();
    match is_object {
        true => format!("\n{comment}export interface {name} {}\n", typed(prefix, schema, "")),
        false => format!("\n{comment}export type {name} = {};\n", typed(prefix, schema, "")),
    }
}

fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// A definition's name under its function's, so that two functions may each have an `Action`.
fn named(prefix: &str, definition: &str) -> String {
    let plain: String = definition.chars().filter(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    format!("{prefix}{}", capitalised(&plain))
}

fn comment(schema: &Value, indent: &str) -> String {
    let Some(said) = schema.get("description").and_then(Value::as_str) else { return String::new() };
    let lines: Vec<&str> = said.lines().collect();
    match lines.as_slice() {
        [one] => format!("{indent}/** {one} */\n"),
        many => {
            let body: String = many.iter().map(|line| format!("{indent} * {line}\n").replace(" \n", "\n")).collect();
            format!("{indent}/**\n{body}{indent} */\n")
        }
    }
}

/// The type of a schema, in the order of its parts; what TypeScript cannot say becomes `unknown`.
fn typed(prefix: &str, schema: &Value, indent: &str) -> String {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return named(prefix, reference.rsplit('/').next().unwrap_or_default());
    }
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return union(values.iter().map(Value::to_string));
    }
    for several in ["anyOf", "oneOf"] {
        if let Some(options) = schema.get(several).and_then(Value::as_array) {
            return union(options.iter().map(|option| typed(prefix, option, indent)));
        }
    }
    match schema.get("type") {
        Some(Value::Array(types)) => union(types.iter().map(|one| simple(prefix, one, schema, indent))),
        Some(one) => simple(prefix, one, schema, indent),
        None => "unknown".to_owned(),
    }
}

fn simple(prefix: &str, name: &Value, schema: &Value, indent: &str) -> String {
    match name.as_str().unwrap_or_default() {
        "string" => "string".to_owned(),
        "integer" | "number" => "number".to_owned(),
        "boolean" => "boolean".to_owned(),
        "null" => "null".to_owned(),
        "array" => {
            let item = schema.get("items").map_or_else(|| "unknown".to_owned(), |item| typed(prefix, item, indent));
            if item.contains(' ') && !item.starts_with('{') { format!("({item})[]") } else { format!("{item}[]") }
        }
        "object" => object(prefix, schema, indent),
        _ => "unknown".to_owned(),
    }
}

fn object(prefix: &str, schema: &Value, indent: &str) -> String {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        let values = schema.get("additionalProperties").filter(|values| values.is_object());
        let values = values.map_or_else(|| "unknown".to_owned(), |values| typed(prefix, values, indent));
        return format!("{{ [name: string]: {values} }}");
    };
    let required = schema.get("required").and_then(Value::as_array);
    let required: BTreeSet<&str> = required.into_iter().flatten().filter_map(Value::as_str).collect();
    let deeper = format!("{indent}  ");
    let mut fields: Vec<_> = properties.iter().collect();
    fields.sort_by_key(|(name, _)| *name);
    let mut text = String::from("{\n");
    for (name, schema) in fields {
        let mark = if required.contains(name.as_str()) { "" } else { "?" };
        text.push_str(&comment(schema, &deeper));
        text.push_str(&format!("{deeper}{}{mark}: {};\n", key(name), typed(prefix, schema, &deeper)));
    }
    text.push_str(&format!("{indent}}}"));
    text
}

/// A field's name, in quotes where it is no identifier.
fn key(name: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '$';
    match name.chars().all(plain) && !name.starts_with(|first: char| first.is_ascii_digit()) {
        true => name.to_owned(),
        false => Value::from(name).to_string(),
    }
}

fn union(options: impl Iterator<Item = String>) -> String {
    let mut seen = Vec::new();
    for option in options {
        if !seen.contains(&option) {
            seen.push(option);
        }
    }
    if seen.is_empty() { "never".to_owned() } else { seen.join(" | ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_becomes_types() {
        let schema = json!({
            "type": "object",
            "properties": {
                "zone": { "type": ["string", "null"], "description": "Where." },
                "action": { "$ref": "#/$defs/Action" },
                "items": { "type": "array", "items": { "$ref": "#/$defs/Item" } },
                "mixed": { "type": "array", "items": { "type": ["string", "integer"] } },
                "choices": { "type": "object", "additionalProperties": { "enum": ["accept", "reject"] } },
                "inner": { "type": "object", "properties": { "a-b": { "type": "boolean" } } },
                "maybe": { "anyOf": [{ "$ref": "#/$defs/Item" }, { "type": "null" }] },
                "any": true,
            },
            "required": ["action"],
            "$defs": {
                "Action": { "oneOf": [{ "const": "get", "description": "x" }, { "const": "list" }], "description": "What\n\nto do." },
                "Item": { "type": "object", "properties": { "id": { "type": "string" } }, "required": ["id"] },
            },
        });
        let expected = r#"
/**
 * What
 *
 * to do.
 */
export type OrdersAction = "get" | "list";

export interface OrdersItem {
  id: string;
}

export interface OrdersInput {
  action: OrdersAction;
  any?: unknown;
  choices?: { [name: string]: "accept" | "reject" };
  inner?: {
    "a-b"?: boolean;
  };
  items?: OrdersItem[];
  maybe?: OrdersItem | null;
  mixed?: (string | number)[];
  /** Where. */
  zone?: string | null;
}
"#;
        assert_eq!(of_function("orders", &schema), expected);
    }

    #[test]
    fn every_function_has_types_and_an_unknown_one_is_named() {
        for function in gateway::functions().iter().filter(|function| !function.is_raw()) {
            let text = declarations(&[function.name()]).unwrap();
            assert!(text.contains("Input"), "{text}");
        }
        assert!(declarations(&["nothing"]).unwrap_err().to_string().contains("nothing"));
    }
}
