#pragma once

#include <mistral/base/types.hpp>
#include <mistral/generate/options.hpp>
#include <mistral/generate/session.hpp>
#include <mistral/generate/stop.hpp>
#include <mistral/text/detokenizer.hpp>
#include <mistral/text/tokenizer.hpp>

#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace mistral {

/// What a generation of text yielded.
struct GeneratedText {
    std::string text;  ///< without the prompt, the stop string and what followed it
    StopReason reason = StopReason::none;
    Index prompt_tokens = 0;
    Index generated_tokens = 0;  ///< with those of a stop string, without a stop token
};

/// Turns tokens into text as they come and hands it to `OnText` in pieces that are certain: whole characters, and no
/// part of a stop string. Serves one generation.
template <class OnText>
class TextStream {
  public:
    /// Throws Error for impossible stop strings. The callback must outlive the stream.
    TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop_strings, OnText& on_text)
        : detokenizer_(tokenizer), stops_(std::move(stop_strings)), on_text_(on_text) {}

    /// The text goes on after these tokens, which keeps the blank before its first word. Else it is a text of its own.
    void follow(std::span<const Token> tokens) {
        for (const Token token : tokens) static_cast<void>(detokenizer_.push(token));
    }

    /// Generates and hands on until the tokens end, a stop string is reached or the callback returns false.
    template <class Session>
    GeneratedText run(Session& session, std::span<const Token> prompt, GenerateOptions options) {
        options.stop_strings.clear();
        auto generation = session.generate(prompt, std::move(options));
        bool more = true;
        while (more && generation.next()) more = emit(stops_.push(detokenizer_.push(generation.token())));
        if (more) more = emit(stops_.push(detokenizer_.finish()));
        if (more) emit(stops_.finish());
        return {.text = std::move(text_),
                .reason = cancelled_       ? StopReason::cancelled
                          : stops_.found() ? StopReason::stop_string
                                           : generation.reason(),
                .prompt_tokens = static_cast<Index>(prompt.size()),
                .generated_tokens = generation.generated()};
    }

  private:
    /// Returns whether more is wanted.
    bool emit(const std::string& piece) {
        if (!piece.empty()) {
            text_ += piece;
            cancelled_ = !goes_on(on_text_, std::string_view(piece));
        }
        return !cancelled_ && !stops_.found();
    }

    Detokenizer detokenizer_;
    StopStrings stops_;
    OnText& on_text_;
    std::string text_;
    bool cancelled_ = false;
};

/// What becomes of pieces of text unless the caller wants them: they are in the result.
struct IgnoreText {
    void operator()(std::string_view) const {}
};

/// Continues a text. A session that is still empty begins it with the begin-of-sequence token; in another one it
/// follows what is there. Calls on_text(piece) with pieces of the continuation, whole characters each, which make up
/// the result's text; where that returns false, the generation is cancelled. The session then holds the prompt and all
/// tokens generated, those of a stop string too. Throws Error as Session::generate does, for impossible stop strings,
/// and for a token that the tokenizer does not have.
template <class Model, class C, class OnText = IgnoreText>
GeneratedText generate_text(Session<Model, C>& session, const Tokenizer& tokenizer, std::string_view prompt,
                            GenerateOptions options = {}, OnText&& on_text = {}) {
    const auto tokens = tokenizer.encode(prompt, {.bos = session.position() == 0});
    TextStream<std::remove_reference_t<OnText>> stream(tokenizer, options.stop_strings, on_text);
    stream.follow(session.recent(GenerateOptions::max_repetition_window));
    stream.follow(tokens);
    return stream.run(session, tokens, std::move(options));
}

/// The same for tokens, such as a chat template makes. The answer is a text of its own: the blank that a tokenizer puts
/// before a text is dropped.
template <class Model, class C, class OnText = IgnoreText>
GeneratedText generate_text(Session<Model, C>& session, const Tokenizer& tokenizer, std::span<const Token> prompt,
                            GenerateOptions options = {}, OnText&& on_text = {}) {
    TextStream<std::remove_reference_t<OnText>> stream(tokenizer, options.stop_strings, on_text);
    return stream.run(session, prompt, std::move(options));
}

}  // namespace mistral
