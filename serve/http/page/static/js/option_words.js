// What the options behind "More options" are called and explained as, for people who do not know
// the API. A field of the server that is not here is shown with the server's own words.

const YES = { true: "yes", false: "no" };

/** By field, in their order: `[title, help, choices?, expert?]`; `choices` are `{value: label}`. */
export const WORDS = new Map(
  Object.entries({
    "keywords[]": ["Names and words to expect", "People, products, terms, with commas between them, the most important first. They are found more often, and spelled as here."],
    prompt: ["What was said before", "A few sentences in the language of the audio. The text goes on in their spelling and style."],
    beam_size: [
      "Search",
      "More ways to write a passage are compared. Fewer words are wrong, and it takes longer.",
      { 1: "none: fastest", auto: "where the text is unsure", 2: "everywhere, 2 ways", 5: "everywhere, 5 ways" },
    ],
    multilingual: ["Several languages in one file", "The language is detected again for each passage.", YES],
    "languages[]": ["Possible languages", "Where the language is detected, only these are considered. Names or codes, with commas between them."],
    quality: ["Quality", "How accurate a model “auto” may choose.", { fast: "fast and cheap", balanced: "balanced", best: "best words" }],
    track: ["Audio track", "Of a video with several: its number, or its language."],
    hallucination_silence_threshold: ["Drop what is made up in silence", "Text that looks made up goes if more than so many seconds around it are without speech. A note says what was left out."],
    priority: ["Priority", "Which requests go first when the cluster is busy.", { realtime: "before all others", interactive: "somebody is waiting", batch: "whenever there is room" }],
    deadline_s: ["Give up after", "Seconds that the whole transcript may take."],
    keyword_boost: ["Weight of names and words", "0 to 10. A higher one finds more of them, and sooner or later where nobody said them.", null, true],
    context_chunks: ["Passages with context", "So many passages of up to 30 seconds know the text before them, and wait for it. Spelling stays the same, and it takes longer.", null, true],
    temperature: ["Temperature", "0: the likeliest text, with variations where it looks wrong. Up to 1: throughout with variations.", null, true],
    best_of: ["Variations", "So many are made where the temperature is above 0, and the likeliest is kept.", null, true],
    patience: ["Patience of a search", "A search goes on until so many times its number of ways have come to an end.", null, true],
    length_penalty: ["Length penalty of a search", "How ways of different length are compared, 0 to 1. Not set: by the average of their words.", null, true],
  }),
);
