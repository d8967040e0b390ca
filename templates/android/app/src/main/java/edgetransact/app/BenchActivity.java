package edgetransact.app;

import android.app.Activity;
import android.content.Intent;
import android.os.Bundle;
import android.view.WindowManager;
import android.widget.TextView;
import edgetransact.edge.BenchRun;
import edgetransact.edge.android.ModelHolder;
import java.util.concurrent.Future;

/** Runs what {@code edge-transact bench --app} asks for, with the screen on, and ends. */
public final class BenchActivity extends Activity {
    private Future<?> bench;
    private boolean wasShown;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.bench);
        Bars.avoid(findViewById(R.id.root));
        getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        start(getIntent(), saved == null);
    }

    @Override
    protected void onNewIntent(Intent intent) {
        super.onNewIntent(intent);
        setIntent(intent);
        start(intent, true);
    }

    @Override
    public void onWindowFocusChanged(boolean hasFocus) {
        super.onWindowFocusChanged(hasFocus);
        wasShown |= hasFocus;
    }

    /** Once another app or a dark screen is in its place, Android gives a benchmark slower cores, or none. */
    @Override
    protected void onStop() {
        super.onStop();
        // Turning the screen on can stop an activity before it is seen.
        if (bench != null && wasShown) {
            bench.cancel(true);
        }
    }

    /** @param isNew whether the intent came now, not before Android ended and restored the app */
    private void start(Intent intent, boolean isNew) {
        String run = intent.getStringExtra(BenchRun.EXTRA_RUN);
        if (!isNew || run == null) {
            finish();
            return;
        }
        TextView status = findViewById(R.id.status);
        status.setText(getString(R.string.bench_running, run));
        bench = ModelHolder.of(this).bench(run, this::finish);
    }
}
