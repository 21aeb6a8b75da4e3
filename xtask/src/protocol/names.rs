//! Kafka's names in Rust's spelling.

/// `TopicId` -> `topic_id`, `KRaftVersion` -> `kraft_version`.
pub fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut snake = String::with_capacity(name.len() + 8);
    for (at, letter) in letters.iter().enumerate() {
        let after_lower = at > 0 && !letters[at - 1].is_uppercase();
        let before_lower = at > 1 && letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (after_lower || before_lower) {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

/// The name of a struct field: snake case, raw where it is a keyword.
pub fn field(name: &str) -> String {
    match snake_case(name).as_str() {
        keyword @ ("type" | "match" | "use" | "ref" | "move" | "in" | "loop" | "mod") => format!("r#{keyword}"),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_snake_case() {
        assert_eq!(snake_case("TopicId"), "topic_id");
        assert_eq!(snake_case("KRaftVersionFeature"), "kraft_version_feature");
        assert_eq!(snake_case("ISRChange"), "isr_change");
        assert_eq!(field("Match"), "r#match");
    }
}
