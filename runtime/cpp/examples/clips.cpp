// Reads clips of landmarks from files and says the word of each, or that it is none.
//   clips BUNDLE CLIP.f32 ...     each file holds frames x 54 x 2 floats, NaN where a landmark was not detected
#include <spoter/spoter.hpp>

#include <cstdio>
#include <fstream>

namespace {

std::vector<float> landmarks_from(const char *path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  std::vector<float> landmarks(file ? static_cast<std::size_t>(file.tellg()) / sizeof(float) : 0);
  file.seekg(0).read(reinterpret_cast<char *>(landmarks.data()), std::streamsize(landmarks.size() * sizeof(float)));
  return landmarks;
}

}  // namespace

int main(int argc, char **argv) try {
  if (argc < 3) return std::fprintf(stderr, "clips BUNDLE CLIP.f32 ...\n"), 2;
  if (!spoter::verify(argv[1]).passed) return std::fprintf(stderr, "%s: not verified on this device\n", argv[1]), 3;
  const spoter::Recognizer recognizer(argv[1]);
  const std::vector<spoter_label> labels = recognizer.labels();
  for (int i = 2; i < argc; ++i) {
    const std::vector<float> landmarks = landmarks_from(argv[i]);
    const spoter::Prediction found =
        recognizer.predict({landmarks.data(), landmarks.size() / SPOTER_FEATURES, argv[i]});
    if (found.is_sign.value_or(true))
      std::printf("%s (%s) %.2f\n", found.label.c_str(), labels[found.index].bengali, found.score);
    else std::printf("no sign: %s\n", found.reason.c_str());
  }
} catch (const spoter::Error &error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
