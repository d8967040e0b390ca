package edgetransact.tests;

import edgetransact.edge.BenchRun;
import edgetransact.edge.EdgeException;
import edgetransact.edge.Models;
import edgetransact.edge.Phone;
import edgetransact.edge.WeightStore;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Arrays;

/**
 * The benchmark activity of an app on the stand-in phone, which has no GPU: the process of {@code am start}. Like an
 * app, it stays when the run is over.
 *
 * <p>Arguments: the name of the process, the name of the run, the app's assets, its internal files and its external
 * files, and the command that starts the engine.
 */
final class BenchApp {
    private static final int ARGUMENTS = 5;

    private BenchApp() {}

    public static void main(String[] arguments) throws EdgeException, IOException, InterruptedException {
        Path assets = Paths.get(arguments[2]);
        Path internal = Paths.get(arguments[3]);
        Path external = Paths.get(arguments[4]);
        Models models =
                Models.read(new String(Files.readAllBytes(assets.resolve("models.json")), StandardCharsets.UTF_8));
        WeightStore store = new WeightStore(
                asset -> new FileInputStream(assets.resolve(asset).toFile()),
                name -> null,
                internal.resolve("models"),
                external.resolve("models"));
        try (PipeEngine.Factory engines =
                new PipeEngine.Factory(Arrays.asList(arguments).subList(ARGUMENTS, arguments.length))) {
            new BenchRun(models, new Phone(() -> false, 1L << 30, ""), store, internal.resolve("bench"), engines)
                    .run(external.resolve("bench"), arguments[1]);
        }
        Thread.sleep(60_000);
    }
}
