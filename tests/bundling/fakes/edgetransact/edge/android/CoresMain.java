package edgetransact.edge.android;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.Collections;

/** Runs a thread on a core as an engine does, with TVM's own runtime, and prints where that thread and others may run. */
public final class CoresMain {
    private CoresMain() {}

    /** @param arguments the runtime's libraries, and the core */
    public static void main(String[] arguments) throws InterruptedException {
        System.load(arguments[0]);
        System.load(arguments[1]);
        Thread engine = new Thread(() -> {
            Cores.use(Collections.singletonList(Integer.valueOf(arguments[2])));
            print();
        });
        engine.start();
        engine.join();
        print();
    }

    private static void print() {
        try {
            Files.lines(Paths.get("/proc/thread-self/status"))
                    .filter(line -> line.startsWith("Cpus_allowed_list"))
                    .forEach(System.out::println);
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }
}
