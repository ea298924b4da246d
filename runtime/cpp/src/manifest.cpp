// The fields of bundle.json, each with its type and range.
#include "manifest.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "error.hpp"

namespace spoter::detail {
namespace {

[[noreturn]] void wrong(std::string message) { throw ValueError{std::move(message)}; }

auto text_into(std::string &text) {
  return [&text](const Value &value, const std::string &at) { text = as_text(value, at); };
}

std::string at_index(const std::string &where, size_t i) { return where + "[" + std::to_string(i) + "]"; }

bool is_name(const std::string &text) {
  return !text.empty() && text.size() <= 20 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); });
}

// Letters of any language, digits and _, and `others`; between `least` and 60 of them.
bool is_words(const std::string &text, const char *others, size_t least) {
  const std::string known = std::string("_") + others;
  return letters(text) >= least && letters(text) <= 60 && std::all_of(text.begin(), text.end(), [&](char c) {
           return (c & 0x80) || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
                  known.find(c) != known.npos;
         });
}

// An engine is not run here, but a manifest is sound or it is not: its fields are checked as in Python.
struct Engine {
  std::string library;
  std::vector<std::array<int64_t, 3>> batch, frames;
  std::vector<int64_t> buckets;
};

std::array<int64_t, 3> three(const Value &value, const std::string &at) {
  if (as_list(value, at).size() != 3) wrong(at + ": " + std::to_string(value.items.size()) + " values, expected 3");
  std::array<int64_t, 3> made = {};
  for (size_t i = 0; i < 3; ++i) made[i] = as_whole(value.items[i], at_index(at, i));
  return made;
}

void check_engine(const Engine &engine, const std::string &where) {
  if (engine.library == "tensorrt_lean")
    wrong(where + ".library: tensorrt_lean, expected one of tensorrt, tensorrt_rtx");
  for (size_t i = 0; i < engine.batch.size(); ++i) {
    for (const auto &[name, range] : {std::pair("batch", engine.batch[i]), std::pair("frames", engine.frames[i])}) {
      const bool rises = 1 <= range[0] && range[0] <= range[1] && range[1] <= range[2] && range[2] <= 100'000;
      if (!rises)
        wrong(at_index(where + ".profiles", i) + "." + name + ": " + std::to_string(range[0]) + ", " +
              std::to_string(range[1]) + ", " + std::to_string(range[2]) + ", expected rising numbers");
    }
  }
  std::string buckets;
  int64_t before = 0;
  bool rises = true;
  for (const int64_t frames : engine.buckets) {
    rises = rises && frames > before && frames <= 100'000;
    before = frames;
    buckets += (buckets.empty() ? "" : ", ") + std::to_string(frames);
  }
  if (!rises)
    wrong(where + ".buckets: (" + buckets + (engine.buckets.size() == 1 ? "," : "") +
          "), expected rising frame counts");
}

// Reads each item of a list.
template <class Read>
auto each(Read read) {
  return [read](const Value &given, const std::string &at) {
    for (size_t i = 0; i < as_list(given, at).size(); ++i) read(given.items[i], at_index(at, i));
  };
}

Engine engine_from(const Value &value, const std::string &where) {
  Engine engine;
  std::string text;
  const auto any_text = text_into(text);
  const auto any_table = [](const Value &given, const std::string &at) { as_table(given, at); };
  const auto any_truth = [](const Value &given, const std::string &at) { as_truth(given, at); };
  const auto library = [&](const Value &given, const std::string &at) {
    engine.library = given.kind == Kind::text ? given.text : "";
    for (const char *known : {"tensorrt", "tensorrt_lean", "tensorrt_rtx"})
      if (engine.library == known) return;
    wrong(at + ": " + shown(given) + ", expected one of tensorrt, tensorrt_lean, tensorrt_rtx");
  };
  const auto profile = [&](const Value &given, const std::string &at) {
    engine.batch.emplace_back(), engine.frames.emplace_back();
    read_table(given, at,
               {{"batch", true, [&](const Value &v, const std::string &a) { engine.batch.back() = three(v, a); }},
                {"frames", true, [&](const Value &v, const std::string &a) { engine.frames.back() = three(v, a); }}});
  };
  const auto bucket = [&](const Value &given, const std::string &at) { engine.buckets.push_back(as_whole(given, at)); };
  const auto executed = [&](const Value &given, const std::string &at) {
    if (given.kind != Kind::null) as_table(given, at);
  };
  read_table(value, where,
             {{"library", true, library},
              {"version", true, any_text},
              {"compute_capabilities", true, each(any_text)},
              {"system", true, any_text},
              {"machine", true, any_text},
              {"profiles", true, each(profile)},
              {"buckets", true, each(bucket)},
              {"onnx_sha256", true, any_text},
              {"host_code", false, any_truth},
              {"built", true, any_table},
              {"executed", false, executed},
              {"version_compatible", false, any_truth}});
  return engine;
}

struct Read {
  Artefact artefact;
  std::string size_digits;
  std::optional<Engine> engine;
};

void check_artefact(const Read &read, const std::string &where) {
  const Artefact &artefact = read.artefact;
  for (const auto &[name, value] : {std::pair("kind", &artefact.kind), std::pair("precision", &artefact.precision)})
    if (!is_name(*value)) wrong(where + "." + name + ": " + shown(*value) + ", expected a name such as onnx or fp32");
  check_sha256(artefact.sha256, where + ".sha256");
  if (artefact.size_bytes < 0) wrong(where + ".size_bytes: " + read.size_digits);
  if (!(artefact.max_logit_diff >= 0))
    wrong(where + ".max_logit_diff: " + number_in_words(artefact.max_logit_diff) + ", expected at least 0");
  if (read.engine.has_value() != (artefact.kind == "engine"))
    wrong(where + ": kind " + artefact.kind + (read.engine ? " with engine" : " without engine"));
  for (const auto &[name, version] : artefact.needs)
    if (!is_words(name, ". -", 1) || !is_words(version, ".<>=!,+ -", 0))
      wrong(where + ".requires: " + shown(name) + ": " + shown(version));
  if (read.engine) check_engine(*read.engine, where + ".engine");
}

Read artefact_from(const Value &value, const std::string &where) {
  Read read;
  Artefact &artefact = read.artefact;
  const auto size = [&](const Value &given, const std::string &at) {
    as_whole(given, at);
    artefact.size_bytes = given.number, read.size_digits = given.text;
  };
  const auto needs = [&](const Value &given, const std::string &at) {
    for (const auto &[name, version] : as_table(given, at).members)
      artefact.needs[name] = as_text(version, at + "." + name);
  };
  const auto engine = [&](const Value &given, const std::string &at) {
    if (given.kind != Kind::null) read.engine = engine_from(given, at);
  };
  const auto tolerance = [&](const Value &given, const std::string &at) {
    artefact.max_logit_diff = as_number(given, at);
  };
  read_table(value, where,
             {{"path", true, text_into(artefact.path)},
              {"kind", true, text_into(artefact.kind)},
              {"precision", true, text_into(artefact.precision)},
              {"sha256", true, text_into(artefact.sha256)},
              {"size_bytes", true, size},
              {"max_logit_diff", true, tolerance},
              {"requires", false, needs},
              {"engine", false, engine}});
  return read;
}

// Whole numbers of at most six digits with a space between; empty where a text is not that.
std::vector<double> whole_numbers(const std::string &text) {
  std::vector<double> numbers;
  for (size_t at = 0; at <= text.size();) {
    const std::string one = text.substr(at, text.find(' ', at) - at);
    const size_t sign = one.compare(0, 1, "-") == 0, digits = one.size() - sign;
    if (digits < 1 || digits > 6 || one.find_first_not_of("0123456789", sign) != one.npos) return {};
    numbers.push_back(std::atoi(one.c_str()));
    at += one.size() + 1;
  }
  return numbers;
}

Abstention abstention_from(const Value &value) {
  Abstention rule;
  Value known = value;
  const auto number_into = [](double &number) {
    return [&number](const Value &given, const std::string &at) { number = as_number(given, at); };
  };
  const auto texts_into = [](std::vector<std::string> &texts) {
    return each([&texts](const Value &one, const std::string &at) { texts.push_back(as_text(one, at)); });
  };
  std::vector<std::string> rows;
  const auto evidence = [](const Value &given, const std::string &at) { as_table(given, at); };
  const std::initializer_list<Field> fields = {{"temperature", true, number_into(rule.temperature)},
                                               {"min_probability", true, number_into(rule.min_probability)},
                                               {"min_margin", true, number_into(rule.min_margin)},
                                               {"min_hand_share", true, number_into(rule.min_hand_share)},
                                               {"target", true, number_into(rule.target)},
                                               {"min_likeness", false, number_into(rule.min_likeness)},
                                               {"background", false, texts_into(rule.background)},
                                               {"typical_logits", false, texts_into(rows)},
                                               {"evidence", false, evidence}};
  const auto is_unknown = [&](const auto &member) {  // of a later version
    return std::none_of(fields.begin(), fields.end(), [&](const Field &field) { return member.first == field.name; });
  };
  known.members.erase(std::remove_if(known.members.begin(), known.members.end(), is_unknown), known.members.end());
  read_table(known, "abstention", fields);
  if (!(rule.temperature > 0)) wrong("temperature " + number_in_words(rule.temperature) + ", expected more than 0");
  const std::pair<const char *, double> shares[] = {{"min_probability", rule.min_probability},
                                                    {"min_margin", rule.min_margin},
                                                    {"min_hand_share", rule.min_hand_share},
                                                    {"target", rule.target}};
  for (const auto &[name, share] : shares)
    if (!(0 <= share && share <= 1)) wrong(std::string(name) + " " + number_in_words(share) + ", expected 0..1");
  if (!(-1 <= rule.min_likeness && rule.min_likeness <= 1))
    wrong("min_likeness " + number_in_words(rule.min_likeness) + ", expected -1..1");
  for (size_t i = 0; i < rows.size(); ++i) {
    rule.typical_logits.push_back(whole_numbers(rows[i]));
    if (rule.typical_logits.back().size() != rows.size())
      wrong(at_index("typical_logits", i) + ", expected " + std::to_string(rows.size()) +
            " whole numbers with a space between");
  }
  return rule;
}

}  // namespace

void check_sha256(const std::string &text, const std::string &where) {
  const bool hex = text.size() == 64 && text.find_first_not_of("0123456789abcdef") == text.npos;
  if (!hex) wrong(where + ": " + shown(text) + ", expected 64 hexadecimal digits");
}

void check_file_name(const std::string &text, const std::string &where) {
  using namespace std::string_literals;
  if (text.empty() || text.front() == '.' || text.find_first_of("/\\\0\n\r"s) != text.npos || text.size() > 150)
    wrong(where + ": " + shown(text) + ", expected a name of at most 150 bytes without a slash");
}

Manifest manifest_from_json(const Value &value) {
  Manifest made;
  Bundle &bundle = made.bundle;
  std::vector<Read> artefacts;
  const Value *abstention = nullptr;
  const auto read_artefacts =
      each([&](const Value &one, const std::string &at) { artefacts.push_back(artefact_from(one, at)); });
  const auto read_files = [&](const Value &given, const std::string &at) {
    for (const auto &[name, digest] : as_table(given, at).members)
      bundle.files.emplace_back(name, as_text(digest, at + "." + name));
  };
  const auto contract = [&](const Value &given, const std::string &at) { made.contract = &as_table(given, at); };
  const auto provenance = [](const Value &given, const std::string &at) { as_table(given, at); };
  const auto rule = [&](const Value &given, const std::string &at) {
    if (given.kind != Kind::null) abstention = &as_table(given, at);
  };
  const std::initializer_list<Field> fields = {{"name", true, text_into(bundle.name)}, {"contract", true, contract},
                                               {"artefacts", true, read_artefacts},    {"files", true, read_files},
                                               {"provenance", true, provenance},       {"abstention", false, rule}};
  // A newer version may state more: only these fields are read.
  for (const Field &field : fields)
    if (field.needed && !value.find(field.name)) wrong(std::string(field.name) + " is missing");
  for (const auto &[name, given] : value.members)
    for (const Field &field : fields)
      if (name == field.name) field.read(given, name);
  check_file_name(bundle.name, "name");
  for (size_t i = 0; i < artefacts.size(); ++i) {
    check_artefact(artefacts[i], at_index("artefacts", i));
    bundle.artefacts.push_back(artefacts[i].artefact);
  }
  for (const auto &[name, digest] : bundle.files) check_sha256(digest, "files." + name);
  if (abstention) bundle.abstention = abstention_from(*abstention);
  return made;
}

}  // namespace spoter::detail
