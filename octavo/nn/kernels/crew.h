// How many threads a call takes: all, or one fewer while another program holds a core.
//
// A thread whose core is taken holds the others up at every barrier. When they wait for a large part of a call, one
// thread fewer is tried and kept for as long as that is faster; after a while all are tried again, more seldom each time.
// Calls are compared with calls of the same size only. Results do not depend on the number of threads.
#pragma once

class Crew {
  public:
    explicit Crew(int most) : most(most), now(most) {}

    int size() const { return now; }

    // After a call: its size (any number that tells sizes apart), how long it took, and the share of that time, 0..1,
    // for which threads waited on average for the last one.
    void ran(int size, double seconds, double waited) {
        if (size != key) {
            key = size, calls = 0, waits = 0, whole_s = 0;
            return;
        }
        double& usual_s = now == most ? whole_s : fewer_s;
        usual_s = usual_s == 0 ? seconds : usual_s * KEEP + seconds * (1 - KEEP);
        calls++, left--;
        now == most ? all_ran(waited) : fewer_ran();
    }

  private:
    static constexpr double KEEP = 0.7, MUCH = 0.3, LITTLE = 0.1;
    static constexpr int LOOK = 3, TRY = 16, PATIENCE = 128, LONGEST = 1024;  // calls

    const int most;
    int now, key = -1, calls = 0, left = 0, patience = PATIENCE;
    double waits = 0, whole_s = 0, fewer_s = 0;

    void all_ran(double waited) {
        waits = waits * KEEP + waited * (1 - KEEP);
        if (calls >= LOOK && left <= 0 && waits > MUCH && most > 1) change(most - 1);
        if (calls >= LONGEST && waits < LITTLE) patience = PATIENCE;
    }

    void fewer_ran() {
        const bool slower = calls == TRY && whole_s > 0 && fewer_s >= whole_s;
        if (slower || left <= 0) change(most);
    }

    void change(int size) {
        now = size, calls = 0, waits = 0, left = size == most && fewer_s < whole_s ? 0 : patience;
        if (size == most) patience = patience * 2 < LONGEST ? patience * 2 : LONGEST;
        else fewer_s = 0;
    }
};
