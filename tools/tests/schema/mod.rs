//! A strict reader of the part of JSON Schema (draft 2020-12) that `docs/*.schema.json` use. A
//! keyword that it does not know is an error: nothing is passed over.

use serde_json::Value;

/// What is wrong with `value`, or nothing.
pub fn check(schema: &Value, value: &Value) -> Result<(), String> {
    at(schema, schema, value, "$")
}

fn at(root: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let wrong = |what: String| Err(format!("{place}: {what}, not {value}"));
    for (keyword, says) in schema.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => {}
            "$ref" => {
                let pointer = says.as_str().and_then(|r| r.strip_prefix('#')).expect("local");
                at(root, root.pointer(pointer).expect("a definition"), value, place)?;
            }
            "type" => {
                let is = match says.as_str().expect("one type") {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    "number" => value.is_number(),
                    "integer" => value.is_u64() || value.is_i64(),
                    other => panic!("type {other}"),
                };
                if !is {
                    return wrong(format!("a value of type {says}"));
                }
            }
            "enum" => {
                if !says.as_array().expect("a list").contains(value) {
                    return wrong(format!("one of {says}"));
                }
            }
            "anyOf" => {
                let ways = says.as_array().expect("a list").iter();
                let failed: Result<Vec<String>, ()> =
                    ways.map(|s| at(root, s, value, place).err().ok_or(())).collect();
                if let Ok(all) = failed {
                    return Err(all.join("; "));
                }
            }
            "required" => {
                for key in says.as_array().expect("a list").iter().filter_map(Value::as_str) {
                    if value.get(key).is_none() {
                        return wrong(format!("an object with {key}"));
                    }
                }
            }
            "properties" => {
                for (key, s) in says.as_object().expect("an object") {
                    if let Some(v) = value.get(key) {
                        at(root, s, v, &format!("{place}.{key}"))?;
                    }
                }
            }
            "additionalProperties" => {
                assert_eq!(says, &Value::Bool(false));
                for key in value.as_object().into_iter().flat_map(|o| o.keys()) {
                    if schema["properties"].get(key).is_none() {
                        return wrong(format!("an object without {key}"));
                    }
                }
            }
            "items" => {
                for (i, v) in value.as_array().into_iter().flatten().enumerate() {
                    at(root, says, v, &format!("{place}[{i}]"))?;
                }
            }
            "minItems" | "minLength" | "maxLength" | "minimum" | "maximum" => {
                let size = match keyword.as_str() {
                    "minItems" => value.as_array().map(|a| a.len() as f64),
                    "minLength" | "maxLength" => value.as_str().map(|s| s.chars().count() as f64),
                    _ => value.as_f64(),
                };
                let bound = says.as_f64().expect("a number");
                let low = keyword.starts_with("min");
                if size.is_some_and(|s| if low { s < bound } else { s > bound }) {
                    return wrong(format!("{keyword} {bound}"));
                }
            }
            "format" => {
                assert_eq!(says, "uuid");
                if value.as_str().is_some_and(|s| uuid::Uuid::try_parse(s).is_err()) {
                    return wrong("a UUID".to_owned());
                }
            }
            other => panic!("the schema uses {other}, which is not known here"),
        }
    }
    Ok(())
}
