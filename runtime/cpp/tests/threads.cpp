// Several threads share a recogniser, each with a stream of its own, while others open and close their own recogniser:
// threads BUNDLE CLIP.f32, for sanitizers.
#include <atomic>
#include <cstdio>
#include <fstream>
#include <spoter/spoter.hpp>
#include <thread>

// The last event of a stream of the clip's frames, twice as slow.
static std::string streamed(spoter::SignStream &stream, const std::vector<float> &clip) {
  stream.reset();
  for (int n = 0; n < 60; ++n) stream.accept(clip.data() + n * SPOTER_FEATURES, 66.0 * n, n % 2);
  stream.flush();
  return stream.events().back().json;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  std::ifstream file(argv[2], std::ios::binary);
  std::vector<float> clip(60 * SPOTER_FEATURES);
  file.read(reinterpret_cast<char *>(clip.data()), std::streamsize(clip.size() * sizeof(float)));
  spoter::Options options;
  options.threads = 1;
  const spoter::Recognizer shared(argv[1], options);
  const std::string expected = shared.predict({clip.data(), 60}).label;
  spoter::SignStream lent(shared, "window");
  const std::string last = streamed(lent, clip);
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
        spoter::SignStream own(shared, "window");
        wrong += streamed(own, clip) != last;
        try {
          lent.accept(clip.data(), 1e6 * k);
          ++wrong;  // it is another thread's
        } catch (const spoter::Error &error) {
          wrong += error.status != SPOTER_INPUT_ERROR;
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
