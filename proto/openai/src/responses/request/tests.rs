use super::*;

fn chat(body: &str) -> String {
    String::from_utf8(ResponsesRequest::parse(body.as_bytes()).unwrap().chat).unwrap()
}

#[test]
fn a_text_is_a_chat_of_one_message() {
    insta::assert_snapshot!(
        chat(r#"{"model":"m","input":"Hi \"you\"","instructions":"Be brief.","max_output_tokens":5,"temperature":0,"stream":true,"seed":7}"#),
        @r#"{"model":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi \"you\""}],"stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":5,"temperature":0.0,"seed":7}"#
    );
}

#[test]
fn a_conversation_with_tools_keeps_its_turns() {
    let body = r#"{"model":"m","store":false,"previous_response_id":null,
        "input":[
          {"role":"developer","content":"Use tools."},
          {"type":"message","role":"user","content":[{"type":"input_text","text":"Weather in"},{"type":"input_text","text":"Oslo?"}]},
          {"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"hm"}]},
          {"type":"message","id":"msg_1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"I look.","annotations":[]}]},
          {"type":"function_call","call_id":"call_1","name":"weather","arguments":"{\"city\":\"Oslo\"}"},
          {"type":"function_call","call_id":"call_2","name":"time","arguments":"{}"},
          {"type":"function_call_output","call_id":"call_1","output":"rain"},
          {"type":"function_call_output","call_id":"call_2","output":[{"type":"input_text","text":"noon"}]},
          {"role":"user","content":[{"type":"input_text","text":"And this?"},{"type":"input_image","image_url":"data:,x","detail":"low"}]}
        ],
        "tools":[{"type":"function","name":"weather","description":"d","strict":true,"parameters":{"type":"object","properties":{"z":1,"a":2}}}],
        "tool_choice":{"type":"function","name":"weather"},"parallel_tool_calls":false,
        "text":{"format":{"type":"json_schema","name":"s","schema":{"b":1,"a":2},"strict":true}}}"#;
    insta::assert_snapshot!(chat(body));
}

#[test]
fn what_is_repeated_fits_into_one_event() {
    let body =
        "{\"model\":\"m\",\"input\":\"x\",\"metadata\":{ \"a b\" :\r\n \"c \\\\\\\" d\" ,\n\t\"e\":\"\" }}";
    let echo = serde_json::to_string(&ResponsesRequest::parse(body.as_bytes()).unwrap().echo).unwrap();
    assert!(echo.contains(r#""metadata":{"a b":"c \\\" d","e":""}"#), "{echo}");
    assert!(!echo.contains(['\n', '\r']));
}

#[test]
fn what_would_need_a_memory_is_refused_by_name() {
    let refused = |fields: &str| {
        let body = format!(r#"{{"model":"m","input":"hi"{fields}}}"#);
        let error = ResponsesRequest::parse(body.as_bytes()).unwrap_err().to_error();
        (error.code.unwrap(), error.param.unwrap())
    };
    for (fields, param) in [
        (r#","previous_response_id":"resp_1""#, "previous_response_id"),
        (r#","conversation":{"id":"conv_1"}"#, "conversation"),
        (r#","store":true"#, "store"),
        (r#","background":true"#, "background"),
        (r#","prompt":{"id":"p"}"#, "prompt"),
        (r#","truncation":"auto""#, "truncation"),
        (r#","tools":[{"type":"function","name":"f"},{"type":"web_search"}]"#, "tools[1].type"),
        (r#","tool_choice":{"type":"web_search"}"#, "tool_choice.type"),
        (r#","text":{"format":{"type":"grammar"}}"#, "text.format.type"),
    ] {
        assert_eq!(refused(fields), ("unsupported_parameter".into(), param.into()), "{fields}");
    }
    for (input, code, param) in [
        (r#"[{"type":"item_reference","id":"x"}]"#, "unsupported_parameter", "input[0].type"),
        (r#"["hi"]"#, "invalid_type", "input[0]"),
        (r#"[]"#, "invalid_value", "input"),
        (r#"7"#, "invalid_type", "input"),
        (r#"[{"role":"user"}]"#, "missing_required_parameter", "input[0].content"),
        (r#"[{"content":"x"}]"#, "missing_required_parameter", "input[0].role"),
        (
            r#"[{"type":"function_call","name":"f","arguments":""}]"#,
            "missing_required_parameter",
            "input[0].call_id",
        ),
        (
            r#"[{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_file","file_id":"f"}]}]"#,
            "unsupported_parameter",
            "input[0].content[1].type",
        ),
        (
            r#"[{"role":"user","content":[{"type":"input_image","file_id":"f"}]}]"#,
            "unsupported_parameter",
            "input[0].content[0].file_id",
        ),
    ] {
        let body = format!(r#"{{"model":"m","input":{input}}}"#);
        let error = ResponsesRequest::parse(body.as_bytes()).unwrap_err().to_error();
        assert_eq!((error.code.as_deref(), error.param.as_deref()), (Some(code), Some(param)), "{input}");
    }
    let wrong =
        ResponsesRequest::parse(br#"{"model":"m","input":"x","tools":[{"type":"function","name":7}]}"#);
    assert_eq!(wrong.unwrap_err().to_error().param.as_deref(), Some("tools[0].name"));
    let missing = ResponsesRequest::parse(br#"{"model":"m"}"#);
    assert_eq!(missing.unwrap_err().to_error().param.as_deref(), Some("input"));
}

#[test]
fn nothing_in_a_request_is_longer_than_its_bound() {
    let list = |one: &str, times: usize| format!("[{}]", vec![one; times].join(","));
    let (part, tool) = (r#"{"type":"input_text","text":""}"#, r#"{"type":"function","name":"f"}"#);
    let (call, output) =
        (r#"{"role":"user","content":"#, r#"{"type":"function_call_output","call_id":"c","output":"#);
    let (few, many) = (list(part, LIST_MAX), list(part, LIST_MAX + 1));
    let ask = |fields: String| {
        let parsed = ResponsesRequest::parse(format!(r#"{{"model":"m",{fields}}}"#).as_bytes());
        parsed.err().map(|error| error.to_error().param.unwrap())
    };
    for (fields, refused) in [
        (format!(r#""input":{}"#, list(&format!(r#"{call}"x"}}"#), LIST_MAX)), None),
        (format!(r#""input":{}"#, list(&format!(r#"{call}"x"}}"#), LIST_MAX + 1)), Some("input")),
        (format!(r#""input":[{call}{few}}}]"#), None),
        (format!(r#""input":[{call}{many}}}]"#), Some("input[0].content")),
        (format!(r#""input":[{call}{few}}},{output}{few}}}]"#), None),
        (format!(r#""input":[{call}{few}}},{output}{few}}},{call}[{part}]}}]"#), Some("input")),
        (format!(r#""input":"x","tools":{}"#, list(tool, LIST_MAX)), None),
        (format!(r#""input":"x","tools":{}"#, list(tool, LIST_MAX + 1)), Some("tools")),
        (format!(r#""input":"x","include":{}"#, list(r#""i""#, LIST_MAX)), None),
        (format!(r#""input":"x","include":{}"#, list(r#""i""#, LIST_MAX + 1)), Some("include")),
    ] {
        let shown = fields.chars().take(80).collect::<String>();
        assert_eq!(ask(fields).as_deref(), refused, "{shown}");
    }
}
