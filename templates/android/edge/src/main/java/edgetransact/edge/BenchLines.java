package edgetransact.edge;

import java.io.Closeable;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import org.json.JSONException;
import org.json.JSONObject;

/** The lines of a run: {@code edge_transact/benchmarking/records/lines.py}. What the engine doesn't tell is null. */
final class BenchLines implements Closeable {
    private final String run;
    private final OutputStream out;

    BenchLines(Path file, String run) throws IOException {
        this.run = run;
        this.out = new FileOutputStream(file.toFile());
    }

    void start() throws IOException {
        write("start", new JSONObject());
    }

    /**
     * @param seconds the model was loaded in
     * @param weightsBytes the size of its shards
     */
    void load(double seconds, long weightsBytes) throws IOException, JSONException {
        write(
                "load",
                new JSONObject()
                        .put("load_s", seconds)
                        .put("kernel_build_s", JSONObject.NULL)
                        .put("threads", JSONObject.NULL)
                        .put("kv_mib", JSONObject.NULL)
                        .put("weights_mib", weightsBytes / 1048576.0));
    }

    void check(BenchAnswer answer) throws IOException, JSONException {
        write("check", new JSONObject().put("text", answer.text()));
    }

    void warmup() throws IOException {
        write("warmup", new JSONObject());
    }

    void repetition(int index, BenchAnswer answer, Double peakRssMib) throws IOException, JSONException {
        write(
                "repetition",
                answer.measurement()
                        .put("index", index)
                        .put("peak_rss_mib", peakRssMib == null ? JSONObject.NULL : peakRssMib));
    }

    void end() throws IOException {
        write("final", new JSONObject());
    }

    void error(String message) throws IOException {
        // Where storage ended, the line before may be cut off.
        out.write('\n');
        try {
            write("error", new JSONObject().put("message", message));
        } catch (JSONException error) {
            throw new AssertionError(error);
        }
    }

    @Override
    public void close() throws IOException {
        out.close();
    }

    private void write(String kind, JSONObject line) throws IOException {
        try {
            line.put("run", run).put("kind", kind);
        } catch (JSONException error) {
            throw new AssertionError(error);
        }
        // In one write: a line is there as a whole, or not yet.
        out.write((Json.ascii(line) + "\n").getBytes(StandardCharsets.US_ASCII));
    }
}
