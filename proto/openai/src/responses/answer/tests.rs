use super::super::ResponsesRequest;
use super::*;

fn asked(fields: &str) -> Echo {
    let body = format!(r#"{{"model":"m","input":"hi"{fields}}}"#);
    ResponsesRequest::parse(body.as_bytes()).unwrap().echo
}

fn chunk(choice: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-0f","object":"chat.completion.chunk","created":5,"model":"m","choices":[{choice}]}}"#
    )
}

fn events(echo: Echo, data: &[String]) -> String {
    let mut stream = ResponseStream::new(echo);
    let mut out = Vec::new();
    for data in data {
        stream.event(data.as_bytes(), &mut out);
    }
    String::from_utf8(out).unwrap()
}

fn usage() -> String {
    r#"{"id":"chatcmpl-0f","created":5,"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#.to_owned()
}

fn kinds(events: &str) -> Vec<&str> {
    events.lines().filter_map(|line| line.strip_prefix("event: ")).collect()
}

#[test]
fn a_text_comes_in_the_events_that_sdks_expect() {
    let events = events(
        asked(r#","instructions":"Be brief.","metadata":{"z":"1","a":"2"}"#),
        &[
            chunk(
                r#"{"index":0,"delta":{"role":"assistant","content":"Hel"},"logprobs":null,"finish_reason":null}"#,
            ),
            chunk(r#"{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}"#),
            usage(),
            "[DONE]".to_owned(),
        ],
    );
    insta::assert_snapshot!(events);
}

#[test]
fn a_message_ends_where_calls_begin_and_calls_may_alternate() {
    let events = events(
        asked(""),
        &[
            chunk(r#"{"index":0,"delta":{"role":"assistant","content":"I look."}}"#),
            chunk(
                r#"{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"weather","arguments":""}}]}}"#,
            ),
            chunk(
                r#"{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"ci"}},{"index":1,"id":"call_b","function":{"name":"time","arguments":"{"}}]}}"#,
            ),
            chunk(
                r#"{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"ty\":1}"}},{"index":1,"function":{"arguments":"}"}}]},"finish_reason":"tool_calls"}"#,
            ),
            "[DONE]".to_owned(),
        ],
    );
    assert_eq!(
        kinds(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let last = events.rsplit_once("data: ").unwrap().1;
    insta::assert_snapshot!(last.trim());
}

#[test]
fn a_whole_chat_is_a_whole_response() {
    let chat = br#"{"id":"chatcmpl-0f","object":"chat.completion","created":5,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":null,"refusal":"No.","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"[]"}}]},"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":null}}"#;
    let echo = asked(r#","max_output_tokens":2,"temperature":0.5"#);
    insta::assert_snapshot!(ResponseStream::new(echo).whole(chat).unwrap());
    assert_eq!(ResponseStream::new(asked("")).whole(b"{}"), Err(BrokenAnswer::BadChunk));
}

#[test]
fn a_cut_is_told_twice_and_nothing_comes_after_it() {
    let cut =
        r#"{"error":{"message":"cut off","type":"server_error","param":null,"code":"stream_interrupted"}}"#;
    let begun = chunk(r#"{"index":0,"delta":{"content":"Hel"}}"#);
    let told = events(asked(""), &[begun.clone(), cut.to_owned(), begun.clone(), "[DONE]".to_owned()]);
    assert_eq!(kinds(&told)[5..], ["response.failed", "error"], "{told}");
    assert!(
        told.contains(
            r#""status":"failed","background":false,"error":{"code":"server_error","message":"cut off"}"#
        ),
        "{told}"
    );
    assert!(told.contains(r#""id":"msg_0f_0","status":"incomplete""#), "{told}");
    let error = r#"data: {"type":"error","sequence_number":6,"code":"stream_interrupted","message":"cut off","param":null,"error":{"message":"cut off","type":"server_error","param":null,"code":"stream_interrupted"}}"#;
    assert!(told.trim_end().ends_with(error), "{told}");

    assert_eq!(kinds(&events(asked(""), &[cut.to_owned()])), ["error"]);
    // What makes no answer is never taken for a complete one.
    for broken in ["{", "[DONE]", r#"{"error":7}"#] {
        let told = events(asked(""), &[begun.clone(), broken.to_owned()]);
        assert_eq!(kinds(&told)[5..], ["response.failed", "error"], "{broken}: {told}");
    }
}

#[test]
fn an_endless_answer_is_cut() {
    let piece = chunk(&format!(r#"{{"index":0,"delta":{{"content":"{}"}}}}"#, "x".repeat(1 << 20)));
    let told = events(asked(""), &vec![piece; 18]);
    assert_eq!(kinds(&told).last(), Some(&"error"));
    assert_eq!(kinds(&told).iter().filter(|kind| **kind == "response.output_text.delta").count(), 16);
}
