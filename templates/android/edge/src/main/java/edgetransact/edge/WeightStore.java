package edgetransact.edge;

import java.nio.file.Path;

/**
 * The weights of models on the phone. A model is used only if all of its files have the sha256 that it lists.
 *
 * <p>Thread-safe as long as no two threads prepare the same model at once.
 */
public final class WeightStore {
    private final Source assets;
    private final Path internal;
    private final Path external;

    /**
     * @param assets the files that travel in the app
     * @param internal where models are copied to, and where it is remembered what was verified: {@code
     *     getFilesDir()/models}
     * @param external where {@code edge-transact install} puts models: {@code getExternalFilesDir(null)/models}
     */
    public WeightStore(Source assets, Path internal, Path external) {
        this.assets = assets;
        this.internal = internal;
        this.external = external;
    }

    /**
     * Copies a model out of the app if need be, and compares it with its sha256 unless that was done before and no file
     * has changed since. A copy that was interrupted goes on where it was. Blocks; interrupting the thread ends it.
     *
     * @return the directory of the model, for {@link Session#load}
     * @throws EdgeException {@code WEIGHTS_MISSING}, {@code WEIGHTS_DAMAGED}, {@code STORAGE_FULL}, {@code
     *     STORAGE_FAILED}
     */
    public Path prepare(Model model, Progress progress) throws EdgeException, InterruptedException {
        throw new UnsupportedOperationException();
    }
}
