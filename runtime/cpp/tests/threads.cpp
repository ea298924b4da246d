// Several threads share a recogniser, while others open and close their own: threads BUNDLE CLIP.f32, for sanitizers.
#include <atomic>
#include <cstdio>
#include <fstream>
#include <spoter/spoter.hpp>
#include <thread>

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  std::ifstream file(argv[2], std::ios::binary);
  std::vector<float> clip(60 * SPOTER_FEATURES);
  file.read(reinterpret_cast<char *>(clip.data()), std::streamsize(clip.size() * sizeof(float)));
  spoter::Options options;
  options.threads = 1;
  const spoter::Recognizer shared(argv[1], options);
  const std::string expected = shared.predict({clip.data(), 60}).label;
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 5; ++k) {
        const spoter::Clip several[] = {{clip.data(), 60}, {clip.data(), 20}, {clip.data(), 58}};
        wrong += shared.predict_many({several, several + 3}).front().label != expected;
        try {
          shared.predict({clip.data(), 0});
          ++wrong;
        } catch (const spoter::Error &error) {
          wrong += error.message != "clip: 0 frames, the model takes 1.." + std::to_string(shared.max_frames());
        }
        if (i % 2) wrong += spoter::Recognizer(argv[1], options).predict({clip.data(), 60}).label != expected;
        if (i == 0) wrong += !spoter::verify(argv[1], options).passed;
      }
    });
  }
  for (std::thread &thread : threads) thread.join();
  std::printf("%d wrong\n", wrong.load());
  return wrong ? 1 : 0;
}
