//! A model's chat template: messages to the one text it was trained on.

use crate::manifest::Manifest;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, context};
use openai::Message;
use serde::Deserialize;
use std::path::Path;

#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    begin_token: String,
    end_token: String,
}

/// Why the model's template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("cannot read the chat template; copy the model again")]
    Unreadable(#[source] std::io::Error),
    #[error("tokenizer_config.json has not the expected form; copy the model again")]
    NotAConfig(#[source] serde_json::Error),
    #[error("the chat template is not valid Jinja; choose another model")]
    NotJinja(#[source] Error),
}

/// Why messages make no prompt.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    #[error("this model has no chat template; use /v1/completions")]
    NoTemplate,
    /// The template's own words, which are meant for whoever wrote the messages.
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
}

impl ChatTemplate {
    pub fn read(folder: &Path, manifest: &Manifest) -> Result<Self, TemplateError> {
        let text = std::fs::read(folder.join("tokenizer_config.json")).map_err(TemplateError::Unreadable)?;
        let file: File = serde_json::from_slice(&text).map_err(TemplateError::NotAConfig)?;
        // Newer models keep the template in a file of its own. One that the manifest does not list belongs to
        // no version, and must not change what this one says.
        let template = if manifest.files.contains_key(OWN_FILE) {
            Some(std::fs::read_to_string(folder.join(OWN_FILE)).map_err(TemplateError::Unreadable)?)
        } else {
            file.chat_template.and_then(Templates::default)
        };
        Self::new(template, file.bos_token, file.eos_token)
    }

    fn new(
        template: Option<String>,
        begin_token: Option<Token>,
        end_token: Option<Token>,
    ) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        // As transformers sets Jinja up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the usual delimiters are distinct"));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        if let Some(template) = template {
            environment.add_template_owned(NAME, template).map_err(TemplateError::NotJinja)?;
        }
        let text = |token: Option<Token>| token.map_or(String::new(), Token::text);
        Ok(Self { environment, begin_token: text(begin_token), end_token: text(end_token) })
    }

    /// The prompt. It holds its special tokens as text, so it is encoded without adding any.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, RenderError> {
        let template = self.environment.get_template(NAME).map_err(|_| RenderError::NoTemplate)?;
        let rendered = template.render(context! {
            messages => Serde(messages),
            add_generation_prompt,
            bos_token => self.begin_token.as_str(),
            eos_token => self.end_token.as_str(),
        });
        rendered.map_err(|error| {
            RenderError::Refused(error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))
        })
    }
}

#[derive(Deserialize)]
struct File {
    chat_template: Option<Templates>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Described { content: String },
}

impl Templates {
    fn default(self) -> Option<String> {
        match self {
            Self::One(template) => Some(template),
            Self::Named(all) => all.into_iter().find(|one| one.name == "default").map(|one| one.template),
        }
    }
}

impl Token {
    fn text(self) -> String {
        match self {
            Self::Text(text) | Self::Described { content: text } => text,
        }
    }
}

const NAME: &str = "chat";
const OWN_FILE: &str = "chat_template.jinja";

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, messages: &[(&str, &str)]) -> Result<String, RenderError> {
        let token = Token::Described { content: "<s>".to_owned() };
        let template = ChatTemplate::new(Some(template.to_owned()), Some(token), None).unwrap();
        let message = |(role, content): &(&str, &str)| Message {
            role: (*role).to_owned(),
            content: (*content).to_owned(),
        };
        template.render(&messages.iter().map(message).collect::<Vec<_>>(), true)
    }

    #[test]
    fn templates_of_published_models_render() {
        // In the manner of Llama 2 (Python methods, loop variables) and of ChatML (blocks on their own lines).
        let llama = "{{ bos_token }}{% for message in messages %}{% if loop.index0 % 2 == 0 %}[INST] {{ message['content'].strip() }} [/INST]{% else %}{{ message.content | trim }}{% endif %}{% endfor %}";
        let turns = [("user", " hi "), ("assistant", "yes "), ("user", "{{ more }}")];
        assert_eq!(render(llama, &turns).unwrap(), "<s>[INST] hi [/INST]yes[INST] {{ more }} [/INST]");
        let chatml = "{% for message in messages %}\n  {% if true %}\n<{{ message.role }}>\n{{ message.content }}\n  {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(render(chatml, &[("user", "a\n")]).unwrap(), "<user>\na\n\n<assistant>");
    }

    #[test]
    fn the_templates_own_words_are_kept() {
        let template = "{{ raise_exception('roles must alternate: ' + messages[0].role) }}";
        let error = render(template, &[("tool", "")]).unwrap_err().to_string();
        assert!(error.ends_with("roles must alternate: tool"), "{error}");
        let none = ChatTemplate::new(None, None, None).unwrap();
        assert!(matches!(none.render(&[], true), Err(RenderError::NoTemplate)));
    }
}
